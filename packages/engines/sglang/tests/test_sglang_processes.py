"""The detokenizer among the processes of a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from scripted_registry.ci import register_cpu_ci
from scripted_sglang.processes import detokenizer_pid

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")

# A server in a group of its own: it starts the titled process after a while, and then looks for it.
_SERVER = """
import json, subprocess, threading
from scripted_sglang.processes import detokenizer_pid
started = []
def start():
    command = "exec -a sglang::detokenizer cat"  # A title is a command without arguments.
    started.append(subprocess.Popen(["bash", "-c", command], stdin=subprocess.PIPE))
threading.Timer(0.3, start).start()
found = detokenizer_pid(timeout_s=20)
started[0].kill()
print(json.dumps([found, started[0].pid]))
"""


def test_a_detokenizer_that_is_late_is_waited_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SERVER],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    found, started = json.loads(done.stdout)
    assert found == started


def test_that_of_another_server_is_not_ours() -> None:
    begun = time.monotonic()
    other = subprocess.Popen(
        ["bash", "-c", "exec -a sglang::detokenizer cat"],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert os.getpgid(other.pid) != os.getpgid(0)
        assert detokenizer_pid(timeout_s=0.2) is None
        assert time.monotonic() - begun >= 0.2
    finally:
        other.communicate()

"""A script whose request the engine refused: what `scripted run` says of it."""

from __future__ import annotations

import subprocess
import sys

from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="reference", runner_config="cpu")

_SCRIPT = """
def test_too_long(t):
    r = t.start_req(prompt_len=20, rid="long")
    while not r.finished:
        yield
"""


def test_a_refused_request_is_named_beside_the_verdict(tmp_path):
    file = tmp_path / "too_long.py"
    file.write_text(_SCRIPT)
    command = ["run", str(file), "--backend", "reference", "--engine-arg", "max_total_tokens=8"]
    done = subprocess.run(
        [sys.executable, "-c", "from scripted_core.cli import main; main()", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "refused by the engine: long: The input (20 tokens)" in done.stdout
    assert "passed: 0 iterations" in done.stdout

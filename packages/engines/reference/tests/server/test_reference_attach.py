"""Attaching to a reference server that another process tree has started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_core.errors import (
    EngineBusy,
    EngineDied,
    EngineUnreachable,
    HandshakeError,
    KeyRefused,
    ProtocolMismatch,
    ReplyTimeout,
    ScriptFailed,
    ScriptNotImportable,
    ScriptStalled,
)
from scripted_core.sessions import ScriptedHttpServer, attached
from scripted_core.sessions.processes import still_running
from scripted_core.wire.keys import make_keys
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=25, stage="reference", runner_config="cpu")

START_S = 60.0


def generate(url: str) -> bytes:
    body = b'{"input_ids": [1, 2, 3], "sampling_params": {"max_new_tokens": 2}}'
    request = urllib.request.Request(
        f"{url}/generate", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return bytes(answer.read())


# -- scripts -------------------------------------------------------------------------------------


def finishes_a_request(t: Any) -> Any:
    r = t.start_req(prompt_len=20, max_new_tokens=4, seed=1)
    while not r.finished:
        yield
    assert len(r.output_ids) == 4


def pauses_and_is_wrong(t: Any) -> Any:
    t.pause_generation(mode="in_place")
    yield
    assert [1, 2] == [1, 3]


def steps_forever(t: Any) -> Any:
    while True:
        yield


def is_stuck(t: Any) -> Any:
    yield
    time.sleep(3)
    yield


def says(t: Any, text: str) -> Any:
    yield
    raise ValueError(text)


# -- what holds ----------------------------------------------------------------------------------


def test_scripts_run_and_fail_as_on_a_server_of_ones_own(elsewhere: Any) -> None:
    with elsewhere.attach() as server:
        assert server.is_attached
        assert server.base_url == elsewhere.url
        assert server.arguments["max_total_tokens"] == 8192
        assert "processes" not in server.capabilities
        steps: list[Any] = []
        server.execute_script(finishes_a_request, want_trace=True, on_step=steps.append)
        assert len(server.last_trace) == 4
        assert server.event_digest()
        with pytest.raises(ScriptFailed, match="At index 1 diff: 2 != 3") as caught:
            server.execute_script(pauses_and_is_wrong)
        assert "last state" in str(caught.value)
        with pytest.raises(ScriptFailed, match="ValueError: as plain data"):
            server.execute_script(says, args=("as plain data",))
        server.execute_script(finishes_a_request)
    generate(elsewhere.url)  # nothing of the pause is left


def test_a_second_client_is_refused_by_name_and_comes_in_when_the_first_has_gone(
    elsewhere: Any,
) -> None:
    first = elsewhere.attach()
    with pytest.raises(EngineBusy, match=rf"attached: .*\(pid {os.getpid()}\), since") as caught:
        elsewhere.attach()
    assert caught.value.hint
    first.execute_script(finishes_a_request)
    waited: list[ScriptedHttpServer] = []
    waiting = threading.Thread(target=lambda: waited.append(elsewhere.attach(wait_s=20.0)))
    waiting.start()
    first.shutdown()
    first.shutdown()
    waiting.join()
    waited[0].execute_script(finishes_a_request)
    waited[0].shutdown()
    generate(elsewhere.url)


ATTACH_AND_DIE = """
import os, sys
sys.path.insert(0, {folder!r})
from test_reference_attach import *
server = ScriptedHttpServer.attach({address!r}, key_file={key!r})
print("attached", flush=True)
server.execute_script({script})
"""


def test_a_client_that_is_killed_leaves_the_engine_free(elsewhere: Any) -> None:
    code = ATTACH_AND_DIE.format(
        folder=str(Path(__file__).parent),
        address=elsewhere.address,
        key=str(elsewhere.keys / "client.key"),
        script="steps_forever",
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert client.stdout is not None
    with client, client.stdout:
        assert client.stdout.readline() == "attached\n"
        with pytest.raises(EngineBusy, match=rf"pid {client.pid}\)"):
            elsewhere.attach()
        client.kill()
    # Its script is given up at the next yield, and the engine is free again.
    with elsewhere.attach(wait_s=10.0) as server:
        server.execute_script(finishes_a_request)
    generate(elsewhere.url)


def test_a_stalled_script_shows_stacks_and_holds_the_engine_until_it_yields(
    elsewhere: Any,
) -> None:
    server = elsewhere.attach(stall_timeout_s=0.5)
    with pytest.raises(ScriptStalled) as caught:
        server.execute_script(is_stuck)
    assert "in is_stuck" in str(caught.value)
    assert server.dirty
    server.shutdown()
    with pytest.raises(EngineBusy, match=r"the script is_stuck of .* still holds the engine"):
        elsewhere.attach()
    with elsewhere.attach(wait_s=10.0) as again:
        again.execute_script(finishes_a_request)


def test_a_timeout_says_where_the_script_was(elsewhere: Any) -> None:
    with (
        elsewhere.attach() as server,
        pytest.raises(ReplyTimeout, match=r"it was at step [1-9]"),
    ):
        server.execute_script(steps_forever, timeout_s=1.0)
    with elsewhere.attach(wait_s=10.0) as again:
        again.execute_script(finishes_a_request)


def test_a_script_travels_as_source_where_its_file_is_not(elsewhere: Any, tmp_path: Path) -> None:
    """Another machine, as far as the file is concerned: it is gone when the engine looks for it."""
    file = tmp_path / "gone_later.py"
    helper = tmp_path / "helper_of_mine.py"
    helper.write_text("x = 1\n")
    file.write_text("def script(t):\n    yield\n    assert 1 == 2, 'in the engine'\n")
    module = _imported(file)
    with elsewhere.attach() as server:
        real = attached.AttachedEngine.send

        def send(engine: Any, message: Any) -> None:
            file.unlink()
            real(engine, message)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attached.AttachedEngine, "send", send)
            with pytest.raises(ScriptFailed, match="in the engine") as caught:
                server.execute_script(module.script)
            # The traceback quotes a file that is not there.
            assert "assert 1 == 2, 'in the engine'" in caught.value.remote_traceback
            file.write_text("import no_such_module\ndef script(t):\n    yield\n")
            with pytest.raises(ScriptNotImportable, match="no_such_module") as missing:
                server.execute_script(module.script)
    assert "install what it imports there" in str(missing.value.hint)


def _imported(file: Path) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[file.stem] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- keys ----------------------------------------------------------------------------------------


def test_keys_that_are_not_allowed_are_told_apart(elsewhere: Any, tmp_path: Path) -> None:
    make_keys(tmp_path / "others")
    begun = time.monotonic()
    with pytest.raises(KeyRefused, match="another key than the one that 'client' was made for"):
        ScriptedHttpServer.attach(
            elsewhere.address, key_file=tmp_path / "others" / "client.key", timeout_s=5
        )
    (engine, newcomer) = make_keys(elsewhere.keys, clients=("newcomer",))
    allowed = engine.read_text()
    with ScriptedHttpServer.attach(elsewhere.address, key_file=newcomer) as server:
        server.execute_script(finishes_a_request)  # let in while the engine runs
    from scripted_core.wire import keys

    known = keys.read_engine_key(engine)
    keys._write(
        engine, keys.EngineKey(known.public, known.secret, {"client": known.clients["client"]})
    )
    try:
        with pytest.raises(KeyRefused, match=r"'newcomer' in: it is not in .*allow-list") as caught:
            ScriptedHttpServer.attach(elsewhere.address, key_file=newcomer, timeout_s=5)
    finally:
        engine.write_text(allowed)
    assert "--client" in str(caught.value.hint)
    assert time.monotonic() - begun < 10


def test_another_protocol_is_refused_with_both_numbers(
    elsewhere: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "PROTOCOL_VERSION", 99)
    with pytest.raises(ProtocolMismatch, match="speaks wire protocol 1, this side 99"):
        elsewhere.attach()


# -- nobody there --------------------------------------------------------------------------------


def test_what_is_no_scripted_engine_is_named(keys: Path) -> None:
    key = keys / "client.key"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(EngineUnreachable, match="nobody listens there") as caught:
            ScriptedHttpServer.attach(address, key_file=key)
        assert time.monotonic() - begun < 2
        assert "SCRIPTED_LISTEN" in str(caught.value.hint)
        with pytest.raises(EngineUnreachable, match=r"within 0\.5 s"):
            ScriptedHttpServer.attach(address, key_file=key, wait_s=0.5)
        closed.listen()
        with pytest.raises((HandshakeError, EngineUnreachable)):
            ScriptedHttpServer.attach(address, key_file=key, timeout_s=1)
    with pytest.raises(EngineUnreachable, match="no such host"):
        ScriptedHttpServer.attach("no.such.host.invalid:7801", key_file=key)


def test_an_address_in_use_and_a_missing_key_end_the_server_with_the_reason(
    start_elsewhere: Callable[..., Any], keys: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = start_elsewhere(listen=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        assert server.process.wait(START_S) == 1
    assert "for test clients: Address already in use" in server.log.read_text()
    server = start_elsewhere(SCRIPTED_KEY_FILE="")
    assert server.process.wait(START_S) == 1
    assert "there is no way in without keys" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()


# -- the end of the engine -----------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["scheduler", "front", "everything"])
def test_the_end_of_the_engine_is_seen_at_once(
    start_elsewhere: Callable[..., Any], victim: str
) -> None:
    server = start_elsewhere()
    session = server.attach()
    began = []

    def on_step(step: Any) -> None:
        if not began:
            began.append(time.monotonic())
            if victim == "everything":
                os.killpg(server.process.pid, signal.SIGKILL)
            else:
                pid = {name: pid for pid, name in session.pids.items()}["scheduler"]
                os.kill(pid if victim == "scheduler" else server.process.pid, signal.SIGKILL)

    with pytest.raises(EngineDied) as caught:
        session.execute_script(steps_forever, on_step=on_step)
    assert time.monotonic() - began[0] < 2.0
    wanted = {
        "scheduler": "scheduler (pid ",
        "front": "main (pid ",
        "everything": "the connection to tcp://",
    }
    assert wanted[victim] in str(caught.value)
    session.shutdown()
    server.process.wait(10)
    assert still_running(session.pids) == {}


def test_an_attachment_that_is_dropped_without_a_word_ends(elsewhere: Any) -> None:
    import gc

    session = elsewhere.attach()
    session.execute_script(finishes_a_request)
    del session
    begun = time.monotonic()
    gc.collect()
    assert time.monotonic() - begun < 3.0
    with elsewhere.attach(wait_s=5.0) as again:
        again.execute_script(finishes_a_request)

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest
from scripted_core.scripts.reference import content_hash
from scripted_core.testing import FakeEngine, FakePairChannel
from scripted_core.wire.address import create_address
from scripted_core.wire.messages import (
    PROTOCOL_VERSION,
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptRef,
    ScriptSucceeded,
    Shutdown,
)
from scripted_core.wire.plain import to_plain
from scripted_core.wire.progress import ProgressReader, ProgressWriter
from scripted_hook import ScriptedSchedulerHook, maybe_init_scripted_scheduler_hook
from scripted_hook.crash import reporting
from scripted_hook.servant import WireServant
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

MODULE = """
import dataclasses

@dataclasses.dataclass
class Size:
    tokens: int
    def __post_init__(self):
        if self.tokens < 0:
            raise ValueError("no such size")

def runs(t, size, *, times=1):
    handle = t.start_req(prompt_len=size.tokens, max_new_tokens=times)
    while not handle.finished:
        yield

def fails(t):
    yield
    assert [1, 2] == [1, 3]

def is_no_script(t):
    return 5

def takes_nothing():
    yield
"""


class Served:
    """A fake engine with a servant on one end of a fake wire."""

    def __init__(self, folder):
        self.folder = folder
        self.test_side, self._engine_side = FakePairChannel.pair()
        self._progress = ProgressWriter(folder / "progress")
        self.engine = FakeEngine()
        self._servant = WireServant(
            channel=self._engine_side, progress=self._progress, adapter=lambda: self.engine
        )
        self.engine.connect(
            ScriptedSchedulerHook(
                scheduler=self.engine.scheduler,
                tokenizer_recv_proxy=None,
                adapter=self.engine,
                servant=self._servant,
            )
        )
        self.requests = 0

    def shake_hands(self):
        while (ready := self.test_side.receive()) is None:
            self.engine.iterate()
            assert self.engine.iterations < 5
        return ready

    def ask(self, qualname, *args, source=MODULE, **kwargs):
        path = self.folder / "test_module_of_mine.py"
        path.write_text(dedent(source))
        self.requests += 1
        script = ScriptRef(
            path=str(path),
            module_name="test_module_of_mine",
            qualname=qualname,
            content_hash=content_hash(path.read_bytes()),
        )
        self.test_side.send(RunScript(self.requests, script, list(args), kwargs))
        for _ in range(100):
            reply = self.test_side.receive()
            if reply is not None:
                assert reply.request_id == self.requests
                return reply
            self.engine.iterate()
        raise AssertionError("no reply within 100 iterations")

    def close(self):
        self._servant.close()
        self.test_side.close()
        self.engine.close()


@pytest.fixture
def served(tmp_path, monkeypatch):
    one = Served(tmp_path)
    monkeypatch.delitem(sys.modules, "test_module_of_mine", raising=False)
    yield one
    one.close()
    sys.modules.pop("test_module_of_mine", None)


def size(tokens):
    return {"!scripted": "dataclass", "t": "test_module_of_mine:Size", "v": {"tokens": tokens}}


def test_the_handshake_comes_with_the_second_iteration(served):
    ready = served.shake_hands()
    assert served.engine.iterations == 2
    assert isinstance(ready, HookReady)
    assert ready.protocol_version == PROTOCOL_VERSION
    assert ready.engine == "fake"
    assert ready.hooks_fired == ("iterate",)
    assert "chunked_prefill" in ready.capabilities


def test_scripts_run_with_arguments_of_their_own_modules_types(served):
    served.shake_hands()
    reply = served.ask("runs", size(40), times=3)
    assert isinstance(reply, ScriptSucceeded), reply
    assert reply.steps == 5
    assert reply.event_digest == served.engine.hook.event_digest()
    ticks, request_id, step = ProgressReader(served.folder / "progress").read()
    assert ticks > 0
    assert (request_id, step) == (1, 5)
    assert isinstance(served.ask("runs", to_plain(3, what="a")), ScriptFailed)
    assert isinstance(served.ask("runs", size(4)), ScriptSucceeded)


def test_a_failed_script_travels_with_introspection_and_state(served):
    served.shake_hands()
    reply = served.ask("fails")
    assert isinstance(reply, ScriptFailed)
    assert (reply.outcome, reply.error_type) == ("failed", "AssertionError")
    assert "At index 1 diff: 2 != 3" in reply.message
    assert "in fails" in reply.traceback
    assert "step 1" in reply.last_state


@pytest.mark.parametrize(
    ("qualname", "source", "outcome", "code", "says"),
    [
        ("no_such", MODULE, "error", "script-not-importable", "no_such"),
        ("f", "import no_such_module_at_all", "error", "script-not-importable", "no_such_module"),
        ("f", "def f(t: pass", "error", "script-not-importable", "SyntaxError"),
        ("f", "import pytest\npytest.skip('not here', allow_module_level=True)", "skipped", "", ""),
        ("f", "raise SystemExit(4)", "failed", "", "4"),
        ("is_no_script", MODULE, "failed", "", "int"),
        ("takes_nothing", MODULE, "failed", "", "takes_nothing"),
    ],
)
def test_what_cannot_run_is_answered_and_the_engine_goes_on(
    served, qualname, source, outcome, code, says
):
    served.shake_hands()
    reply = served.ask(qualname, source=source)
    assert isinstance(reply, ScriptFailed)
    assert (reply.outcome, reply.code) == (outcome, code)
    assert says in reply.message
    assert isinstance(served.ask("runs", size(4)), ScriptSucceeded)


@pytest.mark.parametrize(
    "argument",
    [
        size(-1),
        {"!scripted": "dataclass", "t": "test_module_of_mine:NoSuch", "v": {}},
        {"!scripted": "enum", "t": "enum:Enum", "v": "NOPE"},
        {"!scripted": "from-the-future", "v": 1},
    ],
)
def test_an_argument_that_cannot_be_made_is_answered_and_the_engine_goes_on(served, argument):
    served.shake_hands()
    assert isinstance(served.ask("runs", argument), ScriptFailed)
    assert isinstance(served.ask("runs", size(4)), ScriptSucceeded)


def test_a_shutdown_is_no_script(served):
    served.shake_hands()
    served.test_side.send(Shutdown())
    served.engine.iterate()
    assert served.engine.hook.phase == "free"


# -- attaching and crashing ------------------------------------------------------------------------


def test_outside_a_session_nothing_is_attached():
    assert maybe_init_scripted_scheduler_hook(object(), adapter=object(), environ={}) is None


def test_a_rank_that_breaks_reports_before_it_ends():
    from scripted_core.wire import transport

    address = create_address()
    channel = transport.TestSideChannel(address)
    try:
        with pytest.raises(ZeroDivisionError), reporting(address, rank="rank 2"):
            raise ZeroDivisionError("in the loop")
        import zmq

        poller = zmq.Poller()
        for socket in channel.pollables():
            poller.register(socket, zmq.POLLIN)
        assert poller.poll(5000)
        report = channel.receive()
        assert isinstance(report, OutOfBandError)
        assert (report.rank, report.error_type, report.message) == (
            "rank 2",
            "ZeroDivisionError",
            "in the loop",
        )
        assert "in the loop" in report.traceback
        with pytest.raises(SystemExit), reporting(address, rank="rank 2"):
            raise SystemExit(0)
        assert not poller.poll(100)
    finally:
        channel.close()
        address.remove()


def test_stacks_are_written_on_request(tmp_path):
    code = f"""
import os, signal, sys
from scripted_core.wire.address import STACKS_SIGNAL, SessionAddress
from scripted_hook.crash import register_stacks
address = SessionAddress({str(tmp_path)!r}, "t")
register_stacks(address)
def a_place_to_be():
    os.kill(os.getpid(), STACKS_SIGNAL)
a_place_to_be()
print(address.stacks(os.getpid()).read_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "a_place_to_be" in done.stdout

"""Iterations for somebody who watches: what they hold, and how they travel without holding up."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scripted_core.scripts.reference import content_hash
from scripted_core.testing import FakeEngine, FakePairChannel
from scripted_core.trace import RequestProgress, StepTrace
from scripted_core.wire.address import create_address
from scripted_core.wire.messages import RunScript, ScriptRef, ScriptSucceeded, StepsEnded
from scripted_core.wire.progress import ProgressWriter
from scripted_core.wire.transport import EngineSideChannel, TestSideChannel
from scripted_hook import ScriptedSchedulerHook
from scripted_hook.servant import WireServant
from scripted_hook.step_stream import StepStream
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def in_process(script, **options):
    engine = FakeEngine(num_pages=64, page_size=4, chunk_size=16)
    hook = ScriptedSchedulerHook(
        scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine
    )
    engine.connect(hook)
    hook.start_job(name="script", function=script, **options)
    while hook.outcome is None:
        engine.iterate()
    engine.close()
    return hook.outcome


def test_a_listener_is_told_of_each_iteration_as_it_ends():
    seen = []

    def script(t):
        r = t.start_req(rid="a", prompt_len=40, seed=1, max_new_tokens=3, ignore_eos=True)
        yield
        assert [step.step for step in seen] == [1], "before the script goes on"
        while not r.finished:
            yield

    outcome = in_process(script, on_step=seen.append)
    assert outcome.error is None
    assert tuple(seen) == outcome.trace
    progress = [step.progress["a"] for step in seen]
    assert progress[0] == RequestProgress(16, 40, 0)
    assert progress[-1] == RequestProgress(40, 40, 3), "an ended request keeps its numbers"
    assert all(step.batch_rids == ("a",) for step in seen)
    for step in seen:
        parts = (step.free_pages, step.evictable_pages, step.held_pages, step.used_pages)
        assert sum(parts) == step.total_pages


def test_what_was_checked_is_counted():
    def script(t):
        handles = [
            t.start_req(prompt_len=8 + n, seed=n, max_new_tokens=2 + n, ignore_eos=True)
            for n in range(2)
        ]
        while not all(one.finished for one in handles):
            yield

    outcome = in_process(script)
    assert outcome.checks.iterations == outcome.steps
    assert "one owner for each KV page" in outcome.checks.invariants
    assert (outcome.checks.clients, outcome.checks.client_tokens) == (2, 5)
    unchecked = in_process(script, check_invariants=False)
    assert unchecked.checks.iterations == 0
    assert unchecked.checks.clients == 0


def step(n):
    return StepTrace(step=n, mode="-", states={}, free_pages=1, total_pages=1)


class Reader:
    """A channel whose reader may be behind."""

    def __init__(self):
        self.keeps_up = True
        self.received = []

    def offer(self, message):
        if self.keeps_up:
            self.received.append([one.step for one in message.steps])
        return self.keeps_up


def test_iterations_are_bundled_and_the_oldest_dropped_while_the_reader_is_behind():
    now = [100.0]
    reader = Reader()
    stream = StepStream(channel=reader, request_id=1, clock=lambda: now[0])
    for n in range(1, 4):
        stream.add(step(n))
    assert reader.received == [[1]], "the first at once, the next not before 40 ms"
    now[0] += 0.05
    stream.add(step(4))
    assert reader.received[1:] == [[2, 3, 4]]
    reader.keeps_up = False
    for n in range(5, 1005):
        now[0] += 0.05
        stream.add(step(n))
    reader.keeps_up = True
    now[0] += 0.05
    stream.add(step(1005))
    assert reader.received[2] == list(range(1005 - 256 + 1, 1006))


@pytest.fixture
def wire():
    address = create_address()
    test_side, engine_side = TestSideChannel(address), EngineSideChannel(address)
    yield test_side, engine_side
    engine_side.close()
    test_side.close()
    address.remove()


def test_a_reader_that_does_not_read_costs_the_engine_nothing_but_what_was_offered(wire):
    test_side, engine_side = wire
    bundle = StepsEnded(1, tuple(step(n) for n in range(200)))
    began = time.monotonic()
    results = [engine_side.offer(bundle) for _ in range(3000)]
    assert time.monotonic() - began < 10
    assert not all(results), "what nobody reads is dropped, not kept"
    engine_side.send(ScriptSucceeded(1, 3000, "digest"))
    received = []
    deadline = time.monotonic() + 10
    while not any(isinstance(message, ScriptSucceeded) for message in received):
        assert time.monotonic() < deadline
        message = test_side.receive()
        if message is not None:
            received.append(message)
    assert len(received) < 200


def test_a_servant_streams_only_when_it_is_asked_to(tmp_path: Path):
    path = tmp_path / "streamed_script.py"
    path.write_text("def runs(t):\n    for _ in range(5):\n        yield\n")
    script = ScriptRef(
        path=str(path),
        module_name="streamed_script",
        qualname="runs",
        content_hash=content_hash(path.read_bytes()),
    )
    test_side, engine_side = FakePairChannel.pair()
    engine = FakeEngine()
    servant = WireServant(
        channel=engine_side, progress=ProgressWriter(tmp_path / "p"), adapter=lambda: engine
    )
    engine.connect(
        ScriptedSchedulerHook(
            scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine, servant=servant
        )
    )

    def messages_of(request):
        test_side.send(request)
        received = []
        while not received or not isinstance(received[-1], ScriptSucceeded):
            engine.iterate()
            while (message := test_side.receive()) is not None:
                received.append(message)
        return received

    engine.iterate()
    engine.iterate()
    test_side.receive()
    quiet = messages_of(RunScript(1, script, [], {}))
    assert [type(message) for message in quiet] == [ScriptSucceeded]
    assert quiet[-1].checks.iterations == 5
    streamed = messages_of(RunScript(2, script, [], {}, want_trace=True, stream_steps=True))
    assert isinstance(streamed[0], StepsEnded)
    assert streamed[0].request_id == 2
    assert streamed[0].steps == streamed[-1].trace[:1]
    servant.close()
    test_side.close()
    engine.close()

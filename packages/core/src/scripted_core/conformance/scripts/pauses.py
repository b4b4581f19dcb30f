"""Pausing and going on."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_core.conformance.check import EngineFacts, Group
from scripted_core.conformance.steps import (
    Steps,
    alone,
    at_rest,
    chunk,
    decode,
    expect,
    finish,
    frozen,
    has_status,
    reason,
    same_output,
    start,
    until,
)
from scripted_core.context import ScriptedContext
from scripted_core.handle import ScriptedReqHandle
from scripted_core.views import RequestStatus

check = Group()

_RETRACT = 'pause_generation(mode="retract")'
_IN_PLACE = 'pause_generation(mode="in_place")'
_DRAIN_STEPS = 8
"""Iterations that slots in flight may take to drain under pipeline parallelism."""


def _goes_back(t: ScriptedContext, r: ScriptedReqHandle) -> Steps:
    """Pause, and find the request where a retraction has to put it."""
    t.pause_generation(mode="retract")
    yield
    if Capability.PP in t.capabilities:
        yield from until(
            lambda: r.status is not RequestStatus.RUNNING, "the retraction", max_steps=_DRAIN_STEPS
        )
    has_status(r, RequestStatus.WAITING, "after the pause")
    queues = t.queues
    expect(r.rid in queues.waiting, "a retracted request is not in the waiting queue")
    expect(
        r.rid not in {*queues.running, *queues.chunked},
        "a retracted request is in another queue too",
    )
    expect(r.kv_pages == 0, f"a retracted request still has {r.kv_pages} KV pages")
    stats = t.engine_stats()
    lost = stats.get("req_pool_total", 0) - stats.get("req_pool_free", 0)
    expect(lost == 0, f"{lost} request rows are still taken while everything is retracted")
    yield from frozen(t, r)


@check(
    _RETRACT,
    "a running request goes back to the queue, its KV released; its output stays",
    needs=(Capability.RETRACT,),
)
def retract_running(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Retract in the middle of a decode, go on, and compare."""
    undisturbed = yield from alone(t, prompt_len=50, seed=1, max_new_tokens=12)
    r = start(t, prompt_len=50, seed=1, max_new_tokens=12)
    yield from decode(r, 4)
    had = r.output_ids
    yield from _goes_back(t, r)
    expect(r.output_ids[: len(had)] == had, "output was lost in the retraction")
    t.continue_generation()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check(
    _RETRACT,
    "a request that is mid-chunk goes back to the queue too",
    needs=(Capability.RETRACT, Capability.CHUNKED_PREFILL),
)
def retract_chunking(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Retract after two chunks of three and a bit."""
    assert facts.chunk_tokens is not None
    prompt_len = 3 * facts.chunk_tokens + 5
    undisturbed = yield from alone(t, prompt_len=prompt_len, seed=2)
    r = start(t, prompt_len=prompt_len, seed=2)
    yield from chunk(r, 2)
    yield from _goes_back(t, r)
    t.continue_generation()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check(
    _IN_PLACE,
    "a running request stays as it is, nothing advances",
    needs=(Capability.PAUSE_IN_PLACE,),
)
def in_place_running(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Freeze a decode, go on, and compare."""
    undisturbed = yield from alone(t, prompt_len=50, seed=3, max_new_tokens=12)
    r = start(t, prompt_len=50, seed=3, max_new_tokens=12)
    yield from decode(r, 4)
    t.pause_generation(mode="in_place")
    yield
    has_status(r, RequestStatus.RUNNING, "after the pause")
    expect(r.kv_pages > 0, "a request that is paused in place has no KV pages")
    yield from frozen(t, r)
    t.continue_generation()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check(
    _IN_PLACE,
    "a request that is mid-chunk stays as it is, nothing advances",
    needs=(Capability.PAUSE_IN_PLACE, Capability.CHUNKED_PREFILL),
)
def in_place_chunking(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Freeze a prompt that is part way through, go on, and compare."""
    assert facts.chunk_tokens is not None
    prompt_len = 3 * facts.chunk_tokens + 5
    undisturbed = yield from alone(t, prompt_len=prompt_len, seed=4)
    r = start(t, prompt_len=prompt_len, seed=4)
    yield from chunk(r, 1)
    t.pause_generation(mode="in_place")
    yield
    expect(r.is_chunking, "after the pause it is not mid-chunk any more")
    yield from frozen(t, r)
    t.continue_generation()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


def _arrive_while_paused(t: ScriptedContext) -> Steps:
    yield
    first = start(t, prompt_len=20, seed=5)
    second = start(t, prompt_len=20, seed=6)
    yield
    for r in (first, second):
        has_status(r, RequestStatus.WAITING, "arrived while paused,")
    expect(
        t.queues.waiting == (first.rid, second.rid),
        "they do not wait in the order of their arrival",
    )
    yield from frozen(t, first)
    expect(not t.batch_log, "a batch ran during the pause")
    t.continue_generation()
    yield from finish(first, second)
    yield from at_rest(t)


@check(_RETRACT, "requests that arrive meanwhile queue", needs=(Capability.RETRACT,))
def arrive_while_retracted(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Two requests after the pause."""
    t.pause_generation(mode="retract")
    yield from _arrive_while_paused(t)


@check(_IN_PLACE, "requests that arrive meanwhile queue", needs=(Capability.PAUSE_IN_PLACE,))
def arrive_while_in_place(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Two requests after the pause."""
    t.pause_generation(mode="in_place")
    yield from _arrive_while_paused(t)


@check(
    _IN_PLACE,
    "an abort of a running request takes effect at the continue",
    needs=(Capability.PAUSE_IN_PLACE,),
)
def in_place_defers_aborts(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Abort a frozen request."""
    r = start(t, prompt_len=50, seed=8, max_new_tokens=20)
    yield from decode(r, 4)
    t.pause_generation(mode="in_place")
    yield
    t.abort(r)
    yield from frozen(t, r)
    t.continue_generation()
    yield from finish(r, max_steps=8)
    has_status(r, RequestStatus.ABORTED, "after the continue")
    yield from at_rest(t)


@check(
    _IN_PLACE,
    "an abort of a waiting request takes effect at the continue",
    needs=(Capability.PAUSE_IN_PLACE,),
)
def in_place_defers_aborts_of_waiting(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Abort a request that arrived during the pause."""
    t.pause_generation(mode="in_place")
    yield
    r = start(t, prompt_len=20, seed=9)
    yield
    t.abort(r)
    yield
    expect(not r.finished, f"it ended ({reason(r)}) before the continue")
    t.continue_generation()
    yield from finish(r, max_steps=8)
    has_status(r, RequestStatus.ABORTED, "after the continue")
    yield from at_rest(t)


@check(
    "continue_generation()",
    "resumes: all that was there or arrived goes on to its end",
    needs=(Capability.PAUSE_IN_PLACE,),
)
def continue_resumes(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Pause twice, with more requests each time."""
    outputs = []
    for seed in (10, 11, 12):
        output = yield from alone(t, prompt_len=30, seed=seed, max_new_tokens=10)
        outputs.append(output)
    handles = [start(t, prompt_len=30, seed=10, max_new_tokens=10)]
    for seed in (11, 12):
        yield from decode(handles[0], 2 * len(handles))
        t.pause_generation(mode="in_place")
        yield
        handles.append(start(t, prompt_len=30, seed=seed, max_new_tokens=10))
        yield
        t.continue_generation()
    yield from finish(*handles)
    for r, output in zip(handles, outputs, strict=True):
        same_output(r, output)
    yield from at_rest(t)


@check("continue_generation()", "without a pause it changes nothing")
def continue_without_a_pause(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Continue an engine that runs."""
    undisturbed = yield from alone(t, seed=13)
    r = start(t, seed=13)
    yield from decode(r, 2)
    t.continue_generation()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check(
    _IN_PLACE + ", via=http",
    "a pause and a continue over the engine's own HTTP API do the same",
    needs=(Capability.PAUSE_IN_PLACE, Capability.HTTP),
)
def paused_over_http(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Freeze a decode over HTTP, and resume it over HTTP."""
    undisturbed = yield from alone(t, prompt_len=50, seed=14, max_new_tokens=12)
    r = start(t, prompt_len=50, seed=14, max_new_tokens=12)
    yield from decode(r, 3)
    t.pause_generation(mode="in_place", via="http")
    yield
    yield from frozen(t, r)
    t.continue_generation(via="http")
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)

"""Aborting requests at every stage."""

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
    has_status,
    reason,
    same_output,
    start,
)
from scripted_core.context import ScriptedContext
from scripted_core.handle import ScriptedReqHandle
from scripted_core.views import FinishKind, RequestStatus

check = Group()

_SOON = 8
"""Iterations within which an abort has to be done."""


def _ends(t: ScriptedContext, *handles: ScriptedReqHandle) -> Steps:
    """The requests end as aborted ones do, and leave no memory."""
    yield from finish(*handles, max_steps=_SOON)
    for r in handles:
        has_status(r, RequestStatus.ABORTED, "after the abort")
        expect(reason(r) == FinishKind.ABORT, f"the finish reason is {reason(r)}")
        client = r.client
        expect(client.ended, "the client was not told of the abort")
    yield from at_rest(t)


@check("abort()", "a running request ends with reason abort, its memory returns")
def abort_running(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """In the middle of a decode."""
    r = start(t, prompt_len=50, max_new_tokens=40)
    yield from decode(r, 4)
    had = r.output_ids
    t.abort(r)
    yield from _ends(t, r)
    expect(r.output_ids[: len(had)] == had, "output from before the abort is gone")
    expect(len(r.output_ids) <= len(had) + 2, f"{len(r.output_ids) - len(had)} more tokens came")


@check(
    "abort()",
    "a request that is mid-chunk ends with reason abort, its memory returns",
    needs=(Capability.CHUNKED_PREFILL,),
)
def abort_chunking(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """After two chunks of four and a bit."""
    assert facts.chunk_tokens is not None
    r = start(t, prompt_len=4 * facts.chunk_tokens + 5)
    yield from chunk(r, 2)
    t.abort(r)
    yield from _ends(t, r)
    expect(r.output_ids == [], "a request that was aborted mid-chunk has output")


@check("abort()", "a waiting request ends with reason abort", needs=(Capability.RETRACT,))
def abort_waiting(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """One that was retracted, and one that has never run."""
    ran = start(t, prompt_len=50, max_new_tokens=40)
    yield from decode(ran, 4)
    t.pause_generation(mode="retract")
    yield
    fresh = start(t, prompt_len=20, seed=2)
    yield
    has_status(fresh, RequestStatus.WAITING, "arrived while paused,")
    had = ran.output_ids
    t.abort(ran)
    t.abort(fresh)
    yield from _ends(t, ran, fresh)
    expect(ran.output_ids == had, "the output of a retracted request changed with its abort")
    t.continue_generation()
    yield


@check("abort()", "a request that is still in the inbox ends with reason abort")
def abort_unreceived(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Request and abort before the same yield."""
    r = start(t, max_new_tokens=40)
    t.abort(r)
    yield from _ends(t, r)


@check("abort()", "exactly that rid: none that begins with it, none that is unknown")
def abort_exactly_that_rid(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Abort beginnings of a live rid, and a stranger."""
    r = t.start_req(prompt_len=20, rid="abcdef", max_new_tokens=8, ignore_eos=True)
    yield from decode(r, 1)
    for rid in ("abc", "a", "stranger"):
        t.abort(t.handle(rid))
        yield
        expect(r.status is not RequestStatus.ABORTED, f"an abort of {rid!r} ended {r.rid!r}")
    yield from finish(r)
    has_status(r, RequestStatus.FINISHED, "at the end")
    yield from at_rest(t)


@check("abort()", "requests beside it go on as if it had never been there")
def abort_leaves_others(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """The middle one of three."""
    outputs = []
    for seed in (1, 2, 3):
        output = yield from alone(t, prompt_len=30, seed=seed, max_new_tokens=14)
        outputs.append(output)
    handles = [start(t, prompt_len=30, seed=seed, max_new_tokens=14) for seed in (1, 2, 3)]
    yield from decode(handles[-1], 3)
    t.abort(handles[1])
    yield from finish(*handles)
    has_status(handles[1], RequestStatus.ABORTED, "after the abort")
    same_output(handles[0], outputs[0])
    same_output(handles[2], outputs[2])
    yield from at_rest(t)


@check(
    "abort(via=http)", "an abort over the engine's own HTTP API does it", needs=(Capability.HTTP,)
)
def abort_over_http(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """In the middle of a decode."""
    r = start(t, prompt_len=50, max_new_tokens=40)
    yield from decode(r, 4)
    t.abort(r, via="http")
    yield from _ends(t, r)


@check("abort_all()", "every request ends with reason abort, all memory returns")
def abort_everything(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Some decode, one may be mid-chunk, one has just arrived."""
    prompt_len = 4 * facts.chunk_tokens if facts.chunk_tokens else 60
    handles = [start(t, prompt_len=20, seed=n, max_new_tokens=40) for n in range(2)]
    yield from decode(handles[-1], 2)
    handles.append(start(t, prompt_len=prompt_len, seed=3, max_new_tokens=40))
    yield
    handles.append(start(t, prompt_len=20, seed=4, max_new_tokens=40))
    t.abort_all()
    yield from _ends(t, *handles)

"""What handles and figures say, and the reset before each script."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_core.conformance.check import EngineFacts, Group
from scripted_core.conformance.steps import (
    Steps,
    at_rest,
    chunk,
    decode,
    expect,
    finish,
    has_status,
    run,
    settle,
    start,
    until,
)
from scripted_core.context import ScriptedContext
from scripted_core.views import RequestStatus

check = Group()


@check(
    "chunks_done()",
    "prefill batches of a prompt that needs several, the completing one included",
    needs=(Capability.CHUNKED_PREFILL,),
)
def chunks_are_counted(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """One that fits into a chunk, and one of three and a bit."""
    assert facts.chunk_tokens is not None
    short = start(t, prompt_len=facts.chunk_tokens // 2, seed=1)
    yield from finish(short)
    expect(short.chunks_done == 0, f"a prompt of one batch has chunks_done={short.chunks_done}")
    r = start(t, prompt_len=3 * facts.chunk_tokens + 5, seed=2)
    yield
    seen = [r.chunks_done]
    while r.is_chunking:
        yield
        seen.append(r.chunks_done)
    expect(seen == [1, 2, 3, 4], f"iteration by iteration chunks_done was {seen}")
    yield from finish(r)
    batches = sum(r.rid in record.extend_rids for record in t.batch_log)
    expect(batches == 4, f"{batches} prefill batches of it are in the batch log")
    yield from at_rest(t)


@check(
    "chunked_parks()",
    "iterations in which it was the chunked request and no chunk of it was scheduled",
    needs=(Capability.CHUNKED_PREFILL, Capability.PAUSE_IN_PLACE),
)
def parks_are_counted(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Paused in place after the first chunk."""
    assert facts.chunk_tokens is not None
    r = start(t, prompt_len=3 * facts.chunk_tokens + 5)
    yield from chunk(r, 1)
    expect(r.chunked_parks == 0, f"before it ever parked, chunked_parks={r.chunked_parks}")
    t.pause_generation(mode="in_place")
    yield from run(5)
    expect(r.chunked_parks == 5, f"after 5 parked iterations chunked_parks={r.chunked_parks}")
    t.continue_generation()
    yield from finish(r)
    expect(r.chunked_parks == 5, f"at the end chunked_parks={r.chunked_parks}")


@check("status()", "unknown, waiting, running, finished and aborted, each when it is so")
def statuses(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A request from before its arrival to its end."""
    has_status(t.handle("nobody"), RequestStatus.UNKNOWN, "of a rid that nobody started")
    r = start(t, max_new_tokens=6)
    has_status(r, RequestStatus.WAITING, "posted,")
    yield from decode(r, 1)
    has_status(r, RequestStatus.RUNNING, "decoding,")
    yield from finish(r)
    has_status(r, RequestStatus.FINISHED, "at its end")
    doomed = start(t, seed=2, max_new_tokens=40)
    yield from decode(doomed, 1)
    t.abort(doomed)
    yield from finish(doomed, max_steps=8)
    has_status(doomed, RequestStatus.ABORTED, "after an abort")


@check("handle", "shows KV, prompt and output of a live request, and nothing of an ended one")
def handles_show(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A request before, while and after it runs."""
    r = start(t, prompt_len=40, max_new_tokens=6)
    expect(r.req is None, "the engine's object is there before the request was received")
    left = r.remaining_prompt_tokens
    expect(left == 40, f"posted, {left} of 40 prompt tokens remain")
    yield from decode(r, 2)
    size = t.engine_stats()["page_size"]
    expect(r.req is not None, "the engine's own object of a running request is not found")
    expect(r.kv_pages >= 40 // size, f"decoding, it has {r.kv_pages} pages of {size} tokens")
    left = r.remaining_prompt_tokens
    expect(left == 0, f"decoding, {left} prompt tokens remain")
    expect(r.rid in t.queues.running, "decoding, it is not among the running ones")
    yield from finish(r)
    yield from settle(t)
    expect(r.req is None, "the engine's object is still there after the end")
    expect(r.kv_pages == 0, f"ended, it has {r.kv_pages} pages")
    expect(len(r.output_ids) == 6, f"ended, it shows {len(r.output_ids)} of 6 output tokens")


@check("engine_stats()", "free figures go down with a request and come back with its end")
def figures(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Pages and rows before, while and after a request runs."""
    before = t.engine_stats()
    expect(before["kv_pool_total"] > 0, f"kv_pool_total is {before['kv_pool_total']}")
    expect(before["page_size"] > 0, f"page_size is {before['page_size']}")
    r = start(t, prompt_len=40, max_new_tokens=8)
    yield from decode(r, 2)
    during = t.engine_stats()
    taken = before["kv_pool_free"] - during["kv_pool_free"]
    needed = 40 // before["page_size"]
    expect(taken >= needed, f"a prompt of 40 tokens took {taken} pages")
    if "req_pool_free" in before:
        rows = before["req_pool_free"] - during["req_pool_free"]
        expect(rows == 1, f"one running request took {rows} rows")
    yield from finish(r)
    yield from at_rest(t)


@check("batch_log", "has every batch, with who prefills in it and in which iteration it ran")
def batches_are_logged(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """One request: a prefill, then decodes."""
    r = start(t, prompt_len=8, max_new_tokens=4)
    yield from finish(r)
    log = t.batch_log
    with_it = [record for record in log if r.rid in record.rids]
    expect(len(with_it) >= 4, f"4 tokens came out of {len(with_it)} batches")
    prefills = [record for record in with_it if r.rid in record.extend_rids]
    expect(prefills == with_it[:1], f"it prefills in {len(prefills)} batches of the log")
    steps = [record.step for record in log]
    expect(steps == sorted(set(steps)), f"the batches ran in iterations {steps}")


def after_a_mess(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """What the script before has left must not be seen."""
    expect(t.batch_log == (), "the batch log has batches of the script before")
    expect(t.is_fully_idle, "the engine is not fully idle")
    stats = t.engine_stats()
    expect(
        stats["kv_pool_free"] == stats["kv_pool_total"],
        f"{stats['kv_pool_total'] - stats['kv_pool_free']} KV pages are not free",
    )
    expect(
        stats.get("req_pool_free") == stats.get("req_pool_total"), "not every request row is free"
    )
    has_status(t.handle("left-over"), RequestStatus.UNKNOWN, "of a request of the script before")
    r = start(t)
    yield from until(lambda: r.finished, "the end of a request: is it still paused? It")


@check(
    "reset",
    "continues, releases, aborts, flushes and forgets what the script before has left",
    then=after_a_mess,
)
def leave_a_mess(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """End with a pause, held memory and requests that have not ended."""
    done = start(t, prompt_len=60, seed=1)
    yield from finish(done)
    r = t.start_req(prompt_len=40, rid="left-over", max_new_tokens=60, ignore_eos=True)
    yield from decode(r, 2)
    if Capability.PAUSE_IN_PLACE in t.capabilities:
        t.pause_generation(mode="in_place")
    t.exhaust_kv(leave_pages=1)
    if Capability.ROW_POOL in t.capabilities:
        t.exhaust("rows", leave_rows=0)
    yield
    start(t, prompt_len=30, seed=2)

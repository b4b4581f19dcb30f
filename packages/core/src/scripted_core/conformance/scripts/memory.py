"""The prefix tree and the exhausters."""

from __future__ import annotations

from collections.abc import Generator

from scripted_core.capabilities import Capability
from scripted_core.conformance.check import EngineFacts, Group
from scripted_core.conformance.steps import (
    Steps,
    alone,
    at_rest,
    decode,
    expect,
    finish,
    flush,
    has_status,
    run,
    same_output,
    settle,
    start,
    until,
)
from scripted_core.context import ScriptedContext
from scripted_core.requests import build_prompt
from scripted_core.views import RequestStatus

check = Group()

_TREE = (Capability.PREFIX_CACHE,)
_CACHED = 96
"""Prompt tokens that are put into the tree: a multiple of usual page sizes."""


def _left(t: ScriptedContext) -> int:
    """Pages that a request could get."""
    stats = t.engine_stats()
    return stats["kv_pool_free"] + stats["kv_pool_evictable"]


def _tokens(t: ScriptedContext, seed: int) -> list[int]:
    return list(
        build_prompt(
            prompt_len=_CACHED,
            prompt_token=1,
            input_ids=None,
            seed=seed,
            vocab_size=t.engine.vocab_size,
        )
    )


def _cache(t: ScriptedContext, seed: int) -> Generator[None, None, list[int]]:
    """Run a prompt, so that it is in the tree if there is one."""
    tokens = _tokens(t, seed)
    r = t.start_req(input_ids=tokens, max_new_tokens=1, ignore_eos=True)
    yield from finish(r)
    yield from settle(t)
    return tokens


@check("flush_cache()", "an idle engine empties its prefix tree; .ok is True", needs=_TREE)
def flush_idle(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Fill the tree and flush it."""
    yield from _cache(t, 1)
    expect(bool(t.get_all_node_hit_counts()), "a finished prompt left nothing in the tree")
    yield from flush(t)
    left = len(t.get_all_node_hit_counts())
    expect(left == 0, f"{left} nodes are left after the flush")
    stats = t.engine_stats()
    expect(stats["kv_pool_free"] == stats["kv_pool_total"], "not every page is free after it")


@check("flush_cache()", "a busy engine keeps its tree and goes on; .ok is False")
def flush_busy(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Flush during a decode."""
    undisturbed = yield from alone(t, seed=2, max_new_tokens=12)
    r = start(t, seed=2, max_new_tokens=12)
    yield from decode(r, 3)
    receipt = t.flush_cache()
    yield
    yield
    expect(receipt.ok is False, f"with a request running, .ok is {receipt.ok}")
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check("flush_cache()", "an engine in which a request only waits is busy; .ok is False")
def flush_while_waiting(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A request that finds no room."""
    t.exhaust_kv(leave_pages=0)
    yield
    r = start(t, seed=21)
    yield
    receipt = t.flush_cache()
    yield
    yield
    expect(receipt.ok is False, f"with a request waiting, .ok is {receipt.ok}")
    t.release_exhausted()
    yield from finish(r)
    yield from at_rest(t)


@check("evict_radix()", "drops everything that no request needs", needs=_TREE)
def evict_all(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Two prompts in the tree."""
    for seed in (3, 4):
        yield from _cache(t, seed)
    t.evict_radix()
    yield
    left = t.engine_stats()["kv_pool_evictable"]
    expect(left == 0, f"{left} pages are still evictable")
    expect(not t.get_all_node_hit_counts(), "nodes are left in the tree")


@check("evict_radix()", "leaves what a running request needs", needs=_TREE)
def evict_around_a_request(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Evict during a decode."""
    undisturbed = yield from alone(t, prompt_len=_CACHED, seed=5, max_new_tokens=12)
    r = start(t, prompt_len=_CACHED, seed=5, max_new_tokens=12)
    yield from decode(r, 3)
    t.evict_radix()
    yield
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check("evict_radix(prefix_tokens=)", "drops that subtree only", needs=_TREE)
def evict_a_prefix(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Of two prompts that begin with the same token, drop one."""
    kept, doomed = _tokens(t, 6), _tokens(t, 7)
    doomed[0] = kept[0]
    for tokens in (kept, doomed):
        r = t.start_req(input_ids=tokens, max_new_tokens=1, ignore_eos=True)
        yield from finish(r)
        yield from settle(t)
    size = t.engine_stats()["page_size"]
    before = t.engine_stats()["kv_pool_evictable"] * size
    t.evict_radix(prefix_tokens=doomed[: 2 * size])
    yield
    dropped = before - t.engine_stats()["kv_pool_evictable"] * size
    # What both begin with may stay, whole pages only are kept, and some keep the first output too.
    expect(
        _CACHED - 2 * size <= dropped <= _CACHED + size,
        f"of {before} tokens in the tree {dropped} were dropped, and the prompt has {_CACHED}",
    )
    yield from at_rest(t)


@check("get_all_node_hit_counts()", "go up when a prefix is used again", needs=_TREE)
def hits_are_counted(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """The same prompt twice."""
    yield from _cache(t, 8)
    once = max(t.get_all_node_hit_counts().values(), default=0)
    yield from _cache(t, 8)
    twice = max(t.get_all_node_hit_counts().values(), default=0)
    expect(twice > once, f"the highest count was {once} and is {twice}")


@check(
    "get_all_node_lock_refs()",
    "at least 1 below a running request, 0 when idle",
    needs=(Capability.PREFIX_CACHE, Capability.LOCK_REFS),
)
def locks_come_and_go(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A request on a cached prefix."""
    tokens = yield from _cache(t, 9)
    idle = max(t.get_all_node_lock_refs().values(), default=0)
    expect(idle == 0, f"idle, the highest lock ref is {idle}")
    r = t.start_req(input_ids=[*tokens, 3, 5], max_new_tokens=8, ignore_eos=True)
    yield from decode(r, 2)
    expect(max(t.get_all_node_lock_refs().values(), default=0) >= 1, "no node is locked by it")
    yield from finish(r)
    yield from settle(t)
    after = max(t.get_all_node_lock_refs().values(), default=0)
    expect(after == 0, f"idle again, the highest lock ref is {after}")


@check("exhaust_kv(leave_pages=)", "leaves exactly so many, evictable pages counted")
def exhaust_leaves_exactly(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Three figures, one after the other."""
    yield from _cache(t, 10)
    for leave in (_left(t) - 1, 7, 0):
        t.exhaust_kv(leave_pages=leave)
        yield
        expect(_left(t) == leave, f"leave_pages={leave} left {_left(t)}")
        t.release_exhausted()
        yield
    yield from at_rest(t)


@check('exhaust_kv(evictable="evict")', "empties the prefix tree first", needs=_TREE)
def exhaust_evicts(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """With a prompt in the tree."""
    yield from _cache(t, 11)
    t.exhaust_kv(leave_pages=5, evictable="evict")
    yield
    stats = t.engine_stats()
    expect(stats["kv_pool_evictable"] == 0, f"{stats['kv_pool_evictable']} pages are evictable")
    expect(stats["kv_pool_free"] == 5, f"leave_pages=5 left {stats['kv_pool_free']} free")


@check("exhaust_kv(leave_pages=)", "a request that does not fit waits, and runs after the release")
def exhaust_keeps_waiting(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A prompt, and no page for it: some engines begin with what fits into less than all of it."""
    undisturbed = yield from alone(t, prompt_len=60, seed=12)
    t.exhaust_kv(leave_pages=0)
    yield
    r = start(t, prompt_len=60, seed=12)
    for _ in range(10):
        yield
        has_status(r, RequestStatus.WAITING, "without room")
    t.release_exhausted()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check(
    "exhaust_kv(leave_pages=)",
    "under decoding requests some are retracted, and all outputs stay the same",
    needs=(Capability.RETRACT,),
)
def exhaust_retracts(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Two requests, and room for the rest of one."""
    outputs = []
    for seed in (13, 14):
        output = yield from alone(t, prompt_len=50, seed=seed, max_new_tokens=40)
        outputs.append(output)
    handles = [start(t, prompt_len=50, seed=seed, max_new_tokens=40) for seed in (13, 14)]
    yield from decode(handles[-1], 4)
    size = t.engine_stats()["page_size"]
    t.exhaust_kv(leave_pages=max(1, 16 // size))
    gave_way = False
    for _ in range(300):
        yield
        gave_way = gave_way or any(r.status is RequestStatus.WAITING for r in handles)
        if all(r.finished for r in handles):
            break
    expect(gave_way, "no request was retracted")
    for r, output in zip(handles, outputs, strict=True):
        same_output(r, output)
    t.release_exhausted()
    yield
    yield from at_rest(t)


@check(
    "exhaust_lock_refs(leave_refs=)",
    "no more than so many nodes can be evicted",
    needs=(Capability.PREFIX_CACHE, Capability.LOCK_REFS),
)
def exhaust_locks(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Three prompts in the tree."""
    for seed in (15, 16, 17):
        yield from _cache(t, seed)
    t.exhaust_lock_refs(leave_refs=1)
    yield
    unlocked = sum(ref == 0 for ref in t.get_all_node_lock_refs().values())
    expect(unlocked == 1, f"leave_refs=1 left {unlocked} unlocked")
    nodes = len(t.get_all_node_lock_refs())
    t.evict_radix()
    yield
    left = len(t.get_all_node_lock_refs())
    expect(left == nodes - 1, f"of {nodes} nodes {nodes - left} could be evicted")
    t.release_exhausted()
    yield
    locked = sum(ref != 0 for ref in t.get_all_node_lock_refs().values())
    expect(locked == 0, f"{locked} nodes are locked after the release")
    yield from at_rest(t)


@check(
    "exhaust_row_pool(leave_rows=)",
    "no more than so many requests run at once; the others wait",
    needs=(Capability.ROW_POOL,),
)
def exhaust_rows(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Two requests and one row."""
    t.exhaust("rows", leave_rows=1)
    yield
    first = start(t, prompt_len=20, seed=18, max_new_tokens=10)
    second = start(t, prompt_len=20, seed=19, max_new_tokens=4)
    yield from decode(first, 4)
    has_status(second, RequestStatus.WAITING, "without a row")
    yield from finish(first, second)
    most = max(len(record.rids) for record in t.batch_log)
    expect(most == 1, f"{most} requests shared the one row")
    t.release_exhausted()
    yield
    yield from at_rest(t)


@check("release_exhausted()", "gives back everything that exhausters hold")
def release_gives_back(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Everything that this engine can be short of, at once."""
    before = t.engine_stats()
    t.exhaust_kv(leave_pages=3)
    if Capability.ROW_POOL in t.capabilities:
        t.exhaust("rows", leave_rows=0)
    yield from run(3)
    expect(t.engine_stats() != before, "nothing was held")
    t.release_exhausted()
    yield
    expect(t.engine_stats() == before, f"before {before}, and after {t.engine_stats()}")


@check(
    "exhaust_kv(leave_pages=)",
    "a request that is mid-chunk parks, and goes on after the release",
    needs=(Capability.CHUNKED_PREFILL,),
)
def exhaust_parks_a_chunk(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Take all pages between two chunks. The last check: not every engine survives it."""
    assert facts.chunk_tokens is not None
    prompt_len = 3 * facts.chunk_tokens + 5
    undisturbed = yield from alone(t, prompt_len=prompt_len, seed=20)
    r = start(t, prompt_len=prompt_len, seed=20)
    yield from until(lambda: r.chunks_done == 1, "the first chunk")
    t.exhaust_kv(leave_pages=0)
    for parks in range(1, 5):
        yield
        expect(r.chunks_done == 1, f"without a page, chunk {r.chunks_done} ran")
        expect(r.chunked_parks == parks, f"parked {parks} times, chunked_parks={r.chunked_parks}")
    t.release_exhausted()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scripted_reference import expected_output
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.messages import (
    AbortReq,
    CallReq,
    ContinueReq,
    FlushCacheReq,
    GenerateReq,
    PauseMode,
    PauseReq,
)
from scripted_reference.ownership import PoolClaims, pool_claims, row_claims
from scripted_reference.request import FinishKind, Req, SamplingParams
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch
from scripted_reference.scheduler import Scheduler
from scripted_reference.window_claims import window_claims

# Under nohup a run ignores SIGHUP, and so would the processes that tests start and hang up on.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Engine:
    """A scheduler, what it reported, and a check of everything after each iteration."""

    def __init__(self, **kwargs: Any) -> None:
        self.scheduler = Scheduler(parse_engine_kwargs(kwargs), observer=self)
        self.prompts: dict[str, list[int]] = {}
        self.finishes: list[Req] = []
        self.streams: dict[Req, list[int]] = {}
        self.batches: list[tuple[ForwardMode, dict[str, int], str | None]] = []
        self.receives = 0
        self.external_locks: Counter[Any] = Counter()

    def before_receive(self) -> None:
        self.receives += 1

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        lens = batch.extend_lens if batch.forward_mode.is_extend() else [1] * len(batch.reqs)
        computed = {req.rid: length for req, length in zip(batch.reqs, lens, strict=True)}
        chunked = batch.chunked_req.rid if batch.chunked_req else None
        self.batches.append((batch.forward_mode, computed, chunked))

    def on_output(self, reqs: Sequence[Req]) -> None:
        """As a front streams: each call brings one token of each request, and none after its end."""
        assert len(set(reqs)) == len(reqs)
        for req in reqs:
            assert req not in self.finishes
            stream = self.streams.setdefault(req, [])
            assert len(req.output_ids) == len(stream) + 1, f"{req!r} streamed {len(stream)}"
            stream.append(req.output_ids[-1])

    def on_finish(self, req: Req) -> None:
        assert req.finished()
        assert self.streams.get(req, []) == req.output_ids
        assert req.req_pool_idx is None
        assert self.scheduler.requests.get(req.rid) is not req
        assert all(req is not other for other in self.finishes), f"{req!r} finished twice"
        self.finishes.append(req)

    def post(
        self,
        rid: str,
        prompt: int | Sequence[int],
        *,
        max_new_tokens: int = 8,
        priority: int | None = None,
        **sampling: Any,
    ) -> GenerateReq:
        return self.ask(
            rid, prompt, max_new_tokens=max_new_tokens, sampling=sampling, priority=priority
        )

    def ask(
        self,
        rid: str,
        prompt: int | Sequence[int],
        *,
        max_new_tokens: int = 8,
        sampling: dict[str, Any] | None = None,
        **fields: Any,
    ) -> GenerateReq:
        """Post a request with any of the fields of `GenerateReq`."""
        ids = random_ids(rid, prompt) if isinstance(prompt, int) else list(prompt)
        spec = GenerateReq(
            rid=rid,
            input_ids=ids,
            sampling_params=SamplingParams(
                max_new_tokens=max_new_tokens, **{"ignore_eos": True, **(sampling or {})}
            ),
            **fields,
        )
        refusal = self.scheduler.validate(spec)
        assert refusal is None, refusal
        self.prompts[rid] = ids
        self.scheduler.inbox.append(spec)
        return spec

    def abort(self, rid: str | None = None) -> None:
        self.scheduler.inbox.append(AbortReq(rid))

    def pause(self, mode: str) -> None:
        self.scheduler.inbox.append(PauseReq(PauseMode(mode)))

    def resume(self) -> None:
        self.scheduler.inbox.append(ContinueReq())

    def call(self, fn: Callable[[Scheduler], Any]) -> None:
        self.scheduler.inbox.append(CallReq(fn))

    def flush(self) -> bool:
        replies: list[bool] = []
        self.scheduler.inbox.append(FlushCacheReq(replies.append))
        self.step()
        assert len(replies) == 1
        return replies[0]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.scheduler.iterate()
            self.check()

    def run(self, *, max_steps: int = 2000) -> None:
        """Step until every request has ended."""
        for _ in range(max_steps):
            if self.scheduler.is_fully_idle():
                return
            self.step()
        raise AssertionError(f"not idle after {max_steps} steps: {self.scheduler.requests}")

    def step_until(self, done: Callable[[], bool], *, max_steps: int = 500) -> None:
        for _ in range(max_steps):
            if done():
                return
            self.step()
        raise AssertionError(f"not reached in {max_steps} steps: {self.scheduler.requests}")

    def lock(self, node: Any) -> None:
        self.scheduler.tree_cache.inc_lock_ref(node)
        self.external_locks[node] += 1

    def unlock(self, node: Any) -> None:
        self.scheduler.tree_cache.dec_lock_ref(node)
        self.external_locks[node] -= 1

    def req(self, rid: str) -> Req:
        found = self.scheduler.find_req(rid)
        assert found is not None, f"{rid} is not live"
        return found

    def where(self, rid: str) -> str:
        """Where a request is; `done` when it has ended."""
        if any(req.rid == rid for req in self.finishes):
            return "done"
        places = {
            "waiting": self.scheduler.waiting_queue,
            "running": self.scheduler.running_batch.reqs,
            "chunked": [self.scheduler.chunked_req] if self.scheduler.chunked_req else [],
        }
        found = [name for name, reqs in places.items() if any(req.rid == rid for req in reqs)]
        assert len(found) == 1, f"{rid} is in {found}"
        return found[0]

    def finished(self, rid: str) -> Req:
        found = [req for req in self.finishes if req.rid == rid]
        assert len(found) == 1, f"{rid} finished {len(found)} times"
        return found[0]

    def kind(self, rid: str) -> FinishKind:
        reason = self.finished(rid).finished_reason
        assert reason is not None
        return reason.kind

    def computed(self, rid: str) -> list[int]:
        """How many tokens each prefill batch computed of a request."""
        return [lens[rid] for mode, lens, _ in self.batches if mode.is_extend() and rid in lens]

    def expect_output(self, *rids: str) -> None:
        """Each of these ended at its full length, with the tokens that the closed form foretells."""
        for rid in rids:
            req = self.finished(rid)
            assert self.kind(rid) is FinishKind.LENGTH
            assert req.output_ids == expected_output(self.prompts[rid], req.max_new_tokens)

    def check(self) -> None:
        """All that has to hold at an iteration boundary."""
        check_claims(self.scheduler)
        check_locks(self.scheduler, self.external_locks)
        self.scheduler.check_memory()
        scheduler = self.scheduler
        chunked = [scheduler.chunked_req] if scheduler.chunked_req else []
        places = [*scheduler.waiting_queue, *scheduler.running_batch.reqs, *chunked]
        assert sorted(req.rid for req in places) == sorted(scheduler.requests)
        assert not any(req.finished() for req in places)
        for req in self.finishes:
            assert req.req_pool_idx is None
            assert req.last_node is None


def random_ids(seed: object, length: int) -> list[int]:
    rng = random.Random(repr(seed))
    return [rng.randrange(3, 32_000) for _ in range(length)]


def check_claims(scheduler: Scheduler) -> None:
    """Pages and rows are partitioned, and what requests share belongs to the tree."""
    check_partition(pool_claims(scheduler))
    window = scheduler.memory.window
    if window is not None:
        check_partition(window_claims(scheduler, window))
        check_window_counts(scheduler)
    rows = row_claims(scheduler)
    owned_rows = [*rows.free_rows, *rows.held_rows, *rows.request_rows.values()]
    assert sorted(owned_rows) == list(range(rows.num_rows))


def check_partition(claims: PoolClaims) -> None:
    """Each page has one owner, and what requests share belongs to the tree."""
    parts = [claims.free_pages, claims.tree_pages, claims.held_pages]
    parts += [claim.own_pages for claim in claims.requests]
    owned = np.sort(np.concatenate(parts))
    first = claims.first_page
    assert np.array_equal(owned, np.arange(first, first + claims.num_pages)), claims
    tree = set(claims.tree_pages.tolist())
    for claim in claims.requests:
        assert tree.issuperset(claim.shared_pages.tolist()), claim


def check_window_counts(scheduler: Scheduler) -> None:
    """What the tree counts of its window slots is what the mapping says; no lock is lost."""
    window = scheduler.memory.window
    assert window is not None
    tree, mapping = window.tree_cache, window.allocator.full_to_swa_index_mapping
    for node in tree.nodes():
        assert node.swa_count == np.count_nonzero(mapping[node.value]), node
        assert node.swa_lock_ref >= 0, node
    locked = sum(node.swa_count for node in tree.nodes() if node.swa_lock_ref)
    total = sum(node.swa_count for node in tree.nodes())
    assert (tree.swa_protected_size(), tree.swa_evictable_size()) == (locked, total - locked)
    used = mapping[mapping != 0]
    assert len(np.unique(used)) == len(used), "two full slots have one window slot"
    if not any(req.last_node for req in scheduler.owners()):
        assert not any(node.swa_lock_ref for node in tree.nodes()), "a window lock was lost"


def check_locks(scheduler: Scheduler, external: Counter[Any]) -> None:
    """Each node is locked exactly as often as a request or an outsider stands at it or below."""
    wanted: Counter[int] = Counter()
    tree = scheduler.tree_cache
    users = [req.last_node for req in scheduler.owners()]
    for node in [*users, *external.elements()]:
        step = node
        while step is not None and step is not tree.root_node:
            wanted[step.id] += 1
            step = step.parent
    for node in tree.nodes():
        assert node.lock_ref == wanted[node.id], (
            f"{node!r} should be locked {wanted[node.id]} times"
        )
    locked = sum(len(node.key) for node in tree.nodes() if node.lock_ref)
    total = sum(len(node.key) for node in tree.nodes())
    assert (tree.protected_size(), tree.evictable_size()) == (locked, total - locked)


@pytest.fixture(scope="session")
def engine() -> type[Engine]:
    """Make an engine: `engine(page_size=16, ...)`."""
    return Engine


@pytest.fixture(scope="session")
def ids() -> Callable[[object, int], list[int]]:
    """Make a prompt: `ids(seed, length)`."""
    return random_ids

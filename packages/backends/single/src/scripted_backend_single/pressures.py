"""What makes memory scarce while a scenario runs.

Each pressure leaves as much as the largest request of the scenario needs for its whole life, and no
more than a few pages beside: requests wait, take turns, are retracted and evict each other's prefixes,
and every one of them can still end.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from scripted_chunked import exhaust_row_pool, run_until_all_finished, warmup_radix
from scripted_chunked.steps import settle
from scripted_core import ScriptedContext
from scripted_core.capabilities import Capability

from scripted_backend_single.scenarios import Prompt, Scenario

_SLACK_PAGES = 4  # what an engine rounds up when it admits, and the page of the coming token
_FOREIGN_TOKENS = 120
_FOREIGN_SEED = 10_000
_WARM_TOKENS = 20  # less than a chunk less than the last one: no prompt needs fewer chunks for it
_CHURN_STEPS = 32
_CHURN_SLACK_PAGES = 2  # the page of the coming token, and with overlap one more

Steps = Iterator[None]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A pressure that is on: ``each_step`` acts in every iteration, ``relieve`` ends it."""

    relieve: Callable[[], Steps]
    each_step: Callable[[], None] = lambda: None


@dataclass(frozen=True, kw_only=True)
class Pressure:
    """``apply`` steps until the pressure is on; the value is how to keep and to end it."""

    name: str
    apply: Callable[[ScriptedContext, Scenario], Generator[None, None, Applied]]
    needs: frozenset[Capability] = frozenset()


def pages_of_the_largest(t: ScriptedContext, scenario: Scenario) -> int:
    """KV pages with which every request of ``scenario`` can end, one at a time."""
    page_size = t.engine_stats()["page_size"]
    return -(-scenario.longest_life_tokens // page_size) + _SLACK_PAGES


def _none(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """All of the memory; the requests of the scenario still disturb each other."""
    yield
    return Applied(relieve=lambda: iter(()))


def _kv_free(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """Few pages, all on the free list: the tree has nothing to give at first."""
    t.exhaust_kv(leave_pages=pages_of_the_largest(t, scenario), evictable="evict")
    yield
    return Applied(relieve=lambda: _release(t))


def _kv_evictable(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """Few pages, all of them in the prefix tree: every page has to be evicted from there first."""
    yield from _fill_tree(t, tokens=scenario.longest_life_tokens)
    t.exhaust_kv(leave_pages=pages_of_the_largest(t, scenario), evictable="count")
    yield
    return Applied(relieve=lambda: _release(t))


def _kv_churn(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """Pages are taken away from running requests and given back later: some have to be retracted."""
    begun_at = t.step_index
    yield

    def each_step() -> None:
        match (t.step_index - begun_at) % _CHURN_STEPS:
            case 4:
                stats = t.engine_stats()
                reachable = stats["kv_pool_free"] + stats["kv_pool_evictable"]
                t.exhaust_kv(leave_pages=min(reachable, _pages_of_the_last_one(t, scenario)))
            case 28:
                t.release_exhausted()

    return Applied(relieve=lambda: _release(t), each_step=each_step)


def _pages_of_the_last_one(t: ScriptedContext, scenario: Scenario) -> int:
    """Pages with which any one running request can end when all others are retracted.

    The rest of a prompt is in it: SGLang ends when a chunk that it has begun with finds no room.
    """
    queues = t.queues
    views = [t.view(rid) for rid in {*queues.running, *queues.chunked}]
    prompt_tokens = max((v.prompt_len - v.computed_tokens for v in views if v), default=0)
    new_tokens = max(prompt.max_new_tokens for prompt in scenario.prompts)
    page_size = t.engine_stats()["page_size"]
    return -(-(max(0, prompt_tokens) + new_tokens) // page_size) + _CHURN_SLACK_PAGES


def _lock_refs(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """The beginning of each prompt and foreign prefixes are in the tree, and none can be evicted."""
    yield from _fill_tree(t, tokens=scenario.longest_life_tokens)
    for prompt in scenario.prompts:
        tokens = prompt.input_ids(vocab_size=t.engine.vocab_size)[:_WARM_TOKENS]
        yield from warmup_radix(t, tokens)
    yield from settle(t)
    t.exhaust_lock_refs(leave_refs=0)
    yield
    t.exhaust_kv(leave_pages=pages_of_the_largest(t, scenario))
    yield
    return Applied(relieve=lambda: _release(t))


def _rows(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """One request row: requests take turns."""
    t.exhaust("rows", leave_rows=1)
    yield
    return Applied(relieve=lambda: _release(t))


def _ballast(t: ScriptedContext, scenario: Scenario) -> Generator[None, None, Applied]:
    """All rows but one belong to requests that decode on: every batch is shared with strangers."""
    ballast = yield from exhaust_row_pool(t, leave_rows=1)

    def relieve() -> Steps:
        for handle in ballast:
            if not handle.finished:
                t.abort(handle)
        yield from run_until_all_finished(ballast)

    return Applied(relieve=relieve)


def _release(t: ScriptedContext) -> Steps:
    t.release_exhausted()
    yield


def _fill_tree(t: ScriptedContext, *, tokens: int) -> Steps:
    """Leave at least so many tokens of foreign prompts in the prefix tree, in several nodes."""
    for i in range(-(-tokens // _FOREIGN_TOKENS) + 1):
        foreign = Prompt(prompt_len=_FOREIGN_TOKENS, seed=_FOREIGN_SEED + i)
        yield from warmup_radix(t, foreign.input_ids(vocab_size=t.engine.vocab_size))
    yield from settle(t)


_TREE = frozenset({Capability.PREFIX_CACHE})
_ROWS = frozenset({Capability.ROW_POOL})

_ALL = [
    Pressure(name="none", apply=_none),
    Pressure(name="kv_free", apply=_kv_free),
    Pressure(name="kv_evictable", apply=_kv_evictable, needs=_TREE),
    Pressure(name="kv_churn", apply=_kv_churn, needs=frozenset({Capability.RETRACT})),
    Pressure(name="lock_refs", apply=_lock_refs, needs=_TREE | {Capability.LOCK_REFS}),
    Pressure(name="rows", apply=_rows, needs=_ROWS),
    Pressure(name="ballast", apply=_ballast, needs=_ROWS),
]

PRESSURES: Mapping[str, Pressure] = MappingProxyType({one.name: one for one in _ALL})
"""Every pressure by its name; ``none`` is the control."""

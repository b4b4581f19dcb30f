"""What a program has done to an engine so far, and what the engine has shown: what rules look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.capabilities import Capability
from scripted_core.memory_ports import DetailedTree, NodeDetail, PrefixTree
from scripted_core.views import FinishReason, PauseMode, ScriptedBatchRecord

from scripted_explore.errors import RuleBroken
from scripted_explore.facts import Facts
from scripted_explore.operations import Op, Start
from scripted_explore.program import Expected


@dataclass(eq=False)
class Tracked:
    """One request that the program has started."""

    number: int
    handle: ScriptedReqHandle
    op: Start
    tokens: list[int]
    output: list[int]
    """What it puts out undisturbed, as far as it goes."""
    posted: int
    """Iterations that had passed when it was posted."""
    stop_token: int | None = None
    first_batch: int | None = None
    """The iteration of its first batch."""
    abort_posted: int | None = None
    may_fail: bool = False
    """It lived while memory was held, or KV of it was lost: it may end without being asked to."""
    reason: FinishReason | None = None
    ended: int = 0

    @property
    def rid(self) -> str:
        """Its id."""
        return self.handle.rid


@dataclass(eq=False)
class PauseSeen:
    """A pause that is in force: since which iteration, and the lengths of outputs once they stand still.

    One that meets another pause in its iteration may find that to have processed what was in flight.
    """

    mode: PauseMode
    since: int
    meets_another: bool = False
    frozen: dict[str, int] | None = None


@dataclass(eq=False)
class World:
    """The state of one run of a program."""

    t: ScriptedContext
    facts: Facts
    expected: Expected
    requests: list[Tracked] = field(default_factory=list)
    live: dict[str, Tracked] = field(default_factory=dict)
    by_rid: dict[str, Tracked] = field(default_factory=dict)
    pause: PauseSeen | None = None
    side_paused: bool = False
    held: bool = False
    locked: bool = False
    transfer_touched: bool = False
    unpaused_since: int = 0
    paused_in: int = -1
    """The iteration of the last pause, whether that is in force or over."""
    done: list[Op] = field(default_factory=list)
    """Operations so far."""
    boundary: list[Op] = field(default_factory=list)
    """Operations since the last iteration."""
    step: int = 0
    records: Sequence[ScriptedBatchRecord] = ()
    """Batches of the last iteration."""
    ended_now: list[Tracked] = field(default_factory=list)
    seen_records: int = 0
    nodes: int = 0
    """Nodes of the prefix tree after the last iteration."""
    details: dict[Any, NodeDetail] | None = None
    """The same nodes by number; ``None`` where a tree does not show them, or is off."""

    def __post_init__(self) -> None:
        # Neither changes during a run, and both are asked for at every iteration.
        tree = self.tree
        self._counted: PrefixTree | None = tree if tree is not None and tree.enabled else None
        counted: Any = self._counted
        self._shown: DetailedTree | None = counted if isinstance(counted, DetailedTree) else None

    @property
    def is_pair(self) -> bool:
        """Whether it is a prefill/decode pair."""
        return Capability.PD_DECODE in self.t.capabilities

    @property
    def tree(self) -> PrefixTree | None:
        """The prefix tree, if there is one."""
        if Capability.PREFIX_CACHE not in self.t.capabilities:
            return None
        return self.t.engine.prefix_tree

    @property
    def is_free(self) -> bool:
        """Whether nothing that the program did keeps requests from making progress."""
        return not (self.pause or self.held or self.side_paused or self.transfer_touched)

    def broken(self, rule: str, what: str) -> NoReturn:
        """Raise: the engine did what it must not."""
        last = "; ".join(str(op) for op in self.done[-6:])
        raise RuleBroken(
            f"[{rule}] step {self.step}: {what}\n  last operations: {last}",
            hint="see docs/explore.md for what each rule demands",
        )

    def after_iteration(self) -> None:
        """An iteration has passed: take in what it shows."""
        t = self.t
        self.step = t.step_index
        log = t.hook.batch_log
        self.records = log[self.seen_records :]
        self.seen_records = len(log)
        self.ended_now = []
        if self._shown is not None:
            self.details = {one.number: one for one in self._shown.details()}
            self.nodes = len(self.details)
        elif self._counted is not None:
            self.nodes = sum(1 for _ in self._counted.nodes())
        for request in list(self.live.values()):
            reason = t.finish_reason(request.rid)
            if reason is not None:
                request.reason, request.ended = reason, self.step
                self.ended_now.append(request)
                del self.live[request.rid]

    def lengths(self) -> dict[str, int]:
        """How many output tokens each live request has."""
        found: dict[str, int] = {}
        for rid in self.live:
            view = self.t.view(rid)
            if view is not None:
                found[rid] = view.output_len
        return found


class Rule:
    """Something that has to hold; each hook does nothing unless a rule overrides it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def posted(self, op: Op, result: Any) -> None:
        """An operation was posted; ``result`` is its receipt or request, if it has one."""

    def after(self) -> None:
        """An iteration has passed."""

    def at_rest(self) -> None:
        """All requests have ended, nothing is held or paused, and the engine is fully idle."""

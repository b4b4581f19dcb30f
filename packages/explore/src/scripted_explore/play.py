"""The script that plays a program: a generator, so that it runs wherever a script does."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, Final

import msgspec
from scripted_core import ScriptedContext
from scripted_core.errors import ExhaustError
from scripted_core.views import FinishKind

from scripted_explore import report as reports
from scripted_explore.acts import Actor
from scripted_explore.facts import Facts
from scripted_explore.operations import AnyOp, Flush, Op, Settle, Steps, UntilEnd, is_possible
from scripted_explore.program import NEW_TOKENS, Expected, PromptKey
from scripted_explore.report import RunReport
from scripted_explore.rules import RULES
from scripted_explore.sometimes import Sight
from scripted_explore.world import World

_SETTLE_STEPS: Final = 60
_REST_STEPS: Final = 200


class Player:
    """One run of a program's operations, with every rule watching."""

    def __init__(
        self, t: ScriptedContext, *, facts: Facts, expected: Expected, report: RunReport
    ) -> None:
        self.world = World(t=t, facts=facts, expected=expected)
        self._actor = Actor(self.world)
        self._report = report
        self._sight = Sight(self.world, report)
        self._rules = [rule(self.world) for rule in RULES]

    def play(self, ops: tuple[AnyOp, ...]) -> Iterator[None]:
        """Do the operations in order, then bring the engine to rest."""
        capabilities = self.world.t.capabilities
        try:
            for op in ops:
                if isinstance(op, Steps):
                    for _ in range(op.count):
                        yield from self._iteration()
                elif isinstance(op, Settle):
                    yield from self._settle()
                elif isinstance(op, UntilEnd):
                    yield from self._until_end(all_of_them=bool(op.all_of_them))
                elif not is_possible(op, capabilities) or not self._post(op):
                    self._report.passed_over += 1
            yield from self._to_rest()
        finally:
            self._report.steps += self.world.t.step_index
            self._report.requests += len(self.world.requests)

    def _post(self, op: Op) -> bool:
        done, result = self._actor.do(op)
        if done:
            self.world.done.append(op)
            self.world.boundary.append(op)
            self._sight.posted(op, result)
            for rule in self._rules:
                rule.posted(op, result)
        return done

    def _iteration(self) -> Iterator[None]:
        self._actor.before_rules()
        # What was there at a call may be gone when it is to be held.
        with contextlib.suppress(ExhaustError):
            yield
        world = self.world
        world.after_iteration()
        for rule in self._rules:
            rule.after()
        self._sight.after(world.boundary)
        self._actor.after()
        if world.boundary:
            world.boundary = []

    def _settle(self) -> Iterator[None]:
        for _ in range(_SETTLE_STEPS):
            if self.world.t.is_fully_idle:
                return
            yield from self._iteration()

    def _until_end(self, *, all_of_them: bool) -> Iterator[None]:
        for _ in range(_SETTLE_STEPS):
            if not self.world.live:
                return
            yield from self._iteration()
            if self.world.ended_now and not all_of_them:
                return

    def _to_rest(self) -> Iterator[None]:
        """Undo what was done, and let everything end: all of it has to, and all memory comes back."""
        world = self.world
        self._actor.undo_all()
        yield from self._iteration()
        work = sum(
            len(one.tokens) // world.facts.chunk_tokens + len(one.output) + 4
            for one in world.live.values()
        )
        for _ in range(_REST_STEPS + 3 * work * world.facts.slots):
            if not world.live and world.t.is_fully_idle:
                break
            yield from self._iteration()
        if world.live:
            world.broken("stuck", f"{sorted(world.live)} have not ended by themselves")
        if not world.t.is_fully_idle:
            world.broken("stuck", "all requests have ended, and the engine is not idle")
        for rule in self._rules:
            rule.at_rest()
        # As the reset before the next program does: what is left behind is this one's doing.
        if is_possible(Flush(), world.t.capabilities):
            self._post(Flush())
            yield from self._iteration()


def play(
    t: ScriptedContext,
    ops: tuple[AnyOp, ...] | list[AnyOp] | str,
    expected: Expected,
    facts: Facts | str | None = None,
    report: RunReport | str | None = None,
) -> Generator[None, None, None]:
    """Play operations on an engine, and fail as soon as a rule or an invariant does not hold.

    ``ops`` are operations, or JSON of them, as is ``facts``; ``expected`` is what each prompt puts out
    undisturbed, by ``PromptKey.text``. ``report`` takes what was seen, or names the file for it.
    Raises ``RuleBroken`` beside what the runtime raises of itself.
    """
    if isinstance(ops, str):
        ops = msgspec.json.decode(ops, type=tuple[AnyOp, ...])
    if isinstance(facts, str):
        facts = msgspec.json.decode(facts, type=Facts)
    kept = report if isinstance(report, RunReport) else RunReport()
    player = Player(t, facts=facts or Facts(), expected=expected, report=kept)
    try:
        yield from player.play(tuple(ops))
    finally:
        if isinstance(report, str):
            reports.written(kept, report)


def undisturbed(
    t: ScriptedContext, keys: list[list[int]], report: RunReport | str
) -> Generator[None, Any, None]:
    """Run prompts one after the other, each on an empty engine, and report what they put out.

    One that the engine ends early, for its end-of-sequence token, is run on past it.
    """
    kept = report if isinstance(report, RunReport) else RunReport()
    for parts in keys:
        key = PromptKey(*parts)
        for ignore_eos in (False, True):
            request = t.start_req(
                input_ids=key.tokens(t.engine.vocab_size),
                max_new_tokens=NEW_TOKENS,
                ignore_eos=ignore_eos,
            )
            for _ in range(_REST_STEPS):
                if request.finished and t.is_fully_idle:
                    break
                yield
            assert request.finished, f"{key.text} does not end when it runs alone"
            if not t.is_fully_idle:
                raise AssertionError("the engine does not come to rest")
            t.flush_cache()
            yield
            reason = request.finish_reason
            if reason is not None and reason.kind is FinishKind.LENGTH:
                break
            if not ignore_eos:
                kept.outputs[f"{key.text} stops"] = [len(request.output_ids)]
        kept.outputs[key.text] = request.output_ids
    yield
    if isinstance(report, str):
        reports.written(kept, report)

"""Makes a failing program small, with Hypothesis' shrinker.

Hypothesis draws a program as whole numbers (``strategies``). It is given those of the program that
failed by a backend of our own, which is its documented way to let somebody else generate
(`hypothesis.internal.conjecture.providers`, "Alternative backends"); what fails is then shrunk by
Hypothesis itself: operations are left out, numbers become plainer ones.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, Literal

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, PrimitiveProvider

from scripted_explore.program import Program
from scripted_explore.space import Topology
from scripted_explore.strategies import choices_of, programs

_BACKEND: Final = "scripted-explore"


class Told(PrimitiveProvider):  # type: ignore[misc, unused-ignore]  # mypy is not shown Hypothesis
    """Gives the numbers that it was told, in order; behind them the least there is."""

    lifetime: ClassVar[Literal["test_function", "test_case"]] = "test_case"
    engine: ClassVar[list[int]] = []
    operations: ClassVar[list[list[int]]] = []

    def __init__(self, conjecturedata: Any, /) -> None:
        super().__init__(conjecturedata)
        self._numbers = list(self.engine)
        self._left = [list(one) for one in self.operations]

    def draw_boolean(self, p: float = 0.5) -> bool:
        """Whether the list of operations goes on."""
        if p in (0, 1):
            return bool(p)
        if not self._left:
            return False
        self._numbers = self._left.pop(0)
        return True

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        """The next number."""
        least = min_value or 0
        value = self._numbers.pop(0) if self._numbers else least
        return max(least, value if max_value is None else min(value, max_value))

    def draw_float(self, **_: Any) -> float:
        """No program has one."""
        raise NotImplementedError

    def draw_string(self, *_: Any, **__: Any) -> str:
        """No program has one."""
        raise NotImplementedError

    def draw_bytes(self, *_: Any, **__: Any) -> bytes:
        """No program has one."""
        raise NotImplementedError


AVAILABLE_PROVIDERS[_BACKEND] = f"{__name__}.Told"


class _TimeIsUp(BaseException):
    """Ends Hypothesis in the middle; it lets through what is no ``Exception``."""


class _Fails(Exception):
    """The one exception that is shrunk: always raised at the same place."""


def shrink(
    program: Program,
    topology: Topology,
    *,
    fails: Callable[[Program], bool],
    timeout_s: float = 60.0,
) -> Program:
    """The smallest program found within ``timeout_s`` for which ``fails`` says yes, as for this one.

    Fewer operations are smaller; of as many, earlier values of each field are.
    """
    deadline = time.monotonic() + timeout_s
    program = best = _without_blocks(
        program, fails=fails, deadline=time.monotonic() + timeout_s / 2
    )
    Told.engine, Told.operations = choices_of(program, topology)
    verdicts: dict[str, bool] = {}

    def attempt(candidate: Program) -> None:
        nonlocal best
        text = candidate.as_json()
        verdict = verdicts.get(text)
        if verdict is None:
            if time.monotonic() > deadline:
                raise _TimeIsUp
            verdict = verdicts[text] = fails(candidate)
        if verdict:
            if size(candidate, topology) < size(best, topology):
                best = candidate
            raise _Fails

    test = hypothesis.given(programs(topology, fixed=program))(attempt)
    test = settings(
        backend=_BACKEND,
        max_examples=8,  # it looks at the plainest one by itself first
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=hypothesis.Verbosity.quiet,
    )(test)
    with contextlib.suppress(_Fails, _TimeIsUp, hypothesis.errors.HypothesisException):
        test()
    return best


def _without_blocks(
    program: Program, *, fails: Callable[[Program], bool], deadline: float
) -> Program:
    """Leave out blocks of operations, long ones first: it spares Hypothesis most of a long program."""
    ops = list(program.ops)
    length = len(ops) // 2
    while length:
        start = 0
        while start < len(ops):
            if time.monotonic() > deadline:
                return program.with_ops(ops)
            fewer = ops[:start] + ops[start + length :]
            if fails(program.with_ops(fewer)):
                ops = fewer
            else:
                start += length
        length //= 2
    return program.with_ops(ops)


def size(program: Program, topology: Topology) -> tuple[int, int]:
    """What is made small: the operations, then how far their numbers are from the plainest."""
    engine, ops = choices_of(program, topology)
    return len(ops), sum(engine) + sum(map(sum, ops))

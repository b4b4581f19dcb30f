"""Whether programs do the same again, on an engine that has run others and on a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scripted_explore.draw import draw_program
from scripted_explore.laboratory import Laboratory
from scripted_explore.space import Topology


def differing(
    backend: str,
    topologies: Sequence[Topology],
    *,
    seed: int,
    count: int,
    kwargs: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[int]:
    """Run programs 0 to ``count - 1`` of a seed twice; the numbers of those whose events differ.

    A program is run where the one before it ran, if their engines' arguments are the same, and then on
    an engine that has run nothing. One that fails has no digest, and is counted as different too.
    ``progress`` is told how many are done.
    """
    found = []
    with Laboratory(backend, tuple(topologies), extra=kwargs) as laboratory:
        for number in range(count):
            program = draw_program(topologies, seed=seed, number=number)
            used = laboratory.run(program, digest=True).digest
            new = laboratory.run(program, fresh=True, digest=True).digest
            if not used or used != new:
                found.append(number)
            if progress is not None:
                progress(number + 1)
    return found

"""The reference engine's topologies in this process, each timed beside the single device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Final

from scripted_core import InProcessSession, ScriptedContext

from bench.results import Result, at_most, summarize
from bench.scripts import CHUNK_TOKENS, ENGINE_KWARGS, MEASURED_STEPS, start_workload

PAIRS: Final = 15
MOST_TIMES_SLOWER: Final = 3.0
TOPOLOGIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "pp=2": {"pp_size": 2},
    "pp=4": {"pp_size": 4},
    "windows": {"model_path": "scripted/small-swa", "chunked_prefill_size": CHUNK_TOKENS},
    "pair": {"disaggregation_mode": "pair"},
    "n-gram guesses": {"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 4},
}
"""What each has beside the arguments of the single device."""


def rows() -> dict[str, Callable[[], Result]]:
    """Each row by its name, to be measured when it is asked for."""
    found: dict[str, Callable[[], Result]] = {}
    for topology in TOPOLOGIES:
        for checked in (False, True):
            suffix = ", invariants" if checked else ""
            for name, row in (
                (f"reference: iterations, {topology}{suffix}", _rate),
                (f"reference: one device to {topology}{suffix}", _slower),
            ):
                found[name] = partial(row, name, topology, checked)
    return found


def _rate(name: str, topology: str, checked: bool) -> Result:
    samples = [MEASURED_STEPS / theirs.wall_s for _, theirs in _measured(topology, checked)]
    return summarize(name, samples, "1/s", None)


def _slower(name: str, topology: str, checked: bool) -> Result:
    # Processor time: all of it is one thread's, and what else the machine does is no part of it.
    samples = [theirs.cpu_s / alone.cpu_s for alone, theirs in _measured(topology, checked)]
    # A verification is several decodes in one iteration, and no topology that is spread over parts.
    is_asked = topology != "n-gram guesses"
    return summarize(name, samples, "ratio", at_most(MOST_TIMES_SLOWER) if is_asked else None)


@dataclass(frozen=True)
class Taken:
    """What the steps of the workload took, by the clock and of the processor."""

    wall_s: float
    cpu_s: float


@cache
def _measured(topology: str, checked: bool) -> list[tuple[Taken, Taken]]:
    """One device and the topology, in turn, so that both meet the same load."""
    taken: list[Taken] = []
    with (
        InProcessSession.start(backend="reference", **ENGINE_KWARGS) as alone,
        InProcessSession.start(
            backend="reference", **{**ENGINE_KWARGS, **TOPOLOGIES[topology]}
        ) as theirs,
    ):
        for _ in range(PAIRS):
            for session in (alone, theirs):
                session.execute_script(_steps, args=(taken,), check_invariants=checked)
    return list(zip(taken[::2], taken[1::2], strict=True))


def _steps(t: ScriptedContext, taken: list[Taken]) -> Iterator[None]:
    yield from start_workload(t)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(MEASURED_STEPS):
        yield
    taken.append(Taken(time.perf_counter() - wall, time.process_time() - cpu))

"""The reference engine in this process: iterations, what the hook costs, start, ``start_req``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from scripted_core import InProcessSession, ScriptedContext
from scripted_reference.adapter import ReferenceAdapter
from scripted_reference.observer import NoObserver, SchedulerObserver
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler

from bench.plugin_cost import plugin_cost
from bench.results import Result, Target, at_least, at_most, summarize
from bench.scripts import DECODING, ENGINE_KWARGS, MEASURED_STEPS, PROMPT_LEN, start_workload

REPETITIONS: Final = 25
STARTS: Final = 7

_START = """
import json, sys, time
import scripted_core.sessions.in_process, scripted_reference.in_process
from scripted_core import InProcessSession
start = time.perf_counter()
session = InProcessSession.start(backend="reference", **json.loads(sys.argv[1]))
print(time.perf_counter() - start)
session.shutdown()
"""


def iterations(*, check_invariants: bool) -> list[float]:
    """Iterations a second with a script that only yields, one figure for each repetition."""

    def script(t: ScriptedContext, rates: list[float]) -> Iterator[None]:
        yield from start_workload(t)
        start = time.perf_counter()
        for _ in range(MEASURED_STEPS):
            yield
        rates.append(MEASURED_STEPS / (time.perf_counter() - start))

    return _repeated(script, check_invariants=check_invariants)


def bare_iterations() -> list[float]:
    """Iterations a second of the scheduler alone, on the same workload without hook and session."""

    def script(t: ScriptedContext, rates: list[float]) -> Iterator[None]:
        yield from start_workload(t)
        scheduler: Scheduler = t.scheduler
        observer, scheduler.observer = scheduler.observer, NoObserver()
        start = time.perf_counter()
        for _ in range(MEASURED_STEPS):
            scheduler.iterate()
        rates.append(MEASURED_STEPS / (time.perf_counter() - start))
        scheduler.observer = observer

    return _repeated(script, check_invariants=False)


@dataclass
class TimedObserver:
    """Between scheduler and hook: the time of every call, summed up for each iteration."""

    inner: SchedulerObserver
    seconds: list[float] = field(default_factory=lambda: [0.0])

    def before_receive(self) -> None:
        """An iteration begins."""
        start = time.perf_counter()
        self.inner.before_receive()
        self.seconds.append(time.perf_counter() - start)

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """A batch goes to the model."""
        start = time.perf_counter()
        self.inner.on_run_batch(batch)
        self.seconds[-1] += time.perf_counter() - start

    def on_output(self, reqs: Sequence[Req]) -> None:
        """Requests have new output tokens."""
        start = time.perf_counter()
        self.inner.on_output(reqs)
        self.seconds[-1] += time.perf_counter() - start

    def on_finish(self, req: Req) -> None:
        """A request has ended."""
        self.inner.on_finish(req)


def hook_cost(*, check_invariants: bool) -> list[float]:
    """Microseconds an iteration inside the hook, the script's ``next()`` included; medians."""

    def script(t: ScriptedContext, costs: list[float]) -> Iterator[None]:
        yield from start_workload(t)
        adapter = t.engine
        assert isinstance(adapter, ReferenceAdapter), "that is the engine measured here"
        engine = adapter.engine
        timed = TimedObserver(engine.observer)
        engine.observer = timed
        # The first entry is the iteration under way, whose beginning was not seen.
        for _ in range(MEASURED_STEPS):
            yield
        engine.observer = timed.inner
        costs.append(statistics.median(timed.seconds[1:]) * 1e6)

    return _repeated(script, check_invariants=check_invariants)


def start_req() -> list[float]:
    """Microseconds of each ``start_req`` with a prompt of 192 tokens, while 8 requests decode."""

    def script(t: ScriptedContext, costs: list[float]) -> Iterator[None]:
        yield from start_workload(t)
        for number in range(DECODING):
            start = time.perf_counter()
            t.start_req(prompt_len=PROMPT_LEN, prompt_token=100 + number)
            costs.append((time.perf_counter() - start) * 1e6)
            yield

    return _repeated(script, check_invariants=False)


def session_start() -> list[float]:
    """Seconds of the first ``InProcessSession.start`` in fresh processes, after the imports."""
    command = [sys.executable, "-c", _START, json.dumps(ENGINE_KWARGS)]
    return [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(STARTS)
    ]


def _repeated(
    script: Callable[[ScriptedContext, list[float]], Iterator[None]], *, check_invariants: bool
) -> list[float]:
    figures: list[float] = []
    with InProcessSession.start(backend="reference", **ENGINE_KWARGS) as session:
        for _ in range(REPETITIONS):
            session.execute_script(script, args=(figures,), check_invariants=check_invariants)
    return figures


@dataclass(frozen=True)
class Measurement:
    """A row that can be measured on its own."""

    name: str
    unit: str
    target: Target | None
    samples: Callable[[], list[float]]

    def result(self) -> Result:
        """Measure it."""
        return summarize(self.name, self.samples(), self.unit, self.target)


MEASUREMENTS: Final = (
    Measurement("reference: bare iterations", "1/s", None, bare_iterations),
    Measurement(
        "reference: iterations",
        "1/s",
        at_least(10_000),
        lambda: iterations(check_invariants=False),
    ),
    Measurement(
        "reference: iterations, invariants",
        "1/s",
        at_least(5_000),
        lambda: iterations(check_invariants=True),
    ),
    Measurement(
        "reference: hook per iteration",
        "µs",
        at_most(20),
        lambda: hook_cost(check_invariants=False),
    ),
    Measurement(
        "reference: hook per iteration, invariants",
        "µs",
        at_most(100),
        lambda: hook_cost(check_invariants=True),
    ),
    Measurement("reference: start_req", "µs", at_most(50), start_req),
    Measurement("reference: session start", "s", at_most(0.3), session_start),
    Measurement("pytest plugin, no scripted tests", "ms", at_most(30), plugin_cost),
)
"""Every row of the table, in its order."""

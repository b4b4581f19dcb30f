"""The reference engine as a server, its transformer, and the memory of a session."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final

from scripted_core import InProcessSession, ScriptedContext
from scripted_core.sessions import ScriptedHttpServer

from bench.results import Result, at_least, at_most, summarize
from bench.scripts import ENGINE_KWARGS, MEASURED_STEPS, start_workload
from bench.server_times import Plan, ServerTimes, measure_server

ROUNDS: Final = 3
TINY_REPETITIONS: Final = 5
TINY_KWARGS: Final[dict[str, Any]] = {**ENGINE_KWARGS, "model_path": "tiny"}

_MEMORY = """
import json, resource, sys
from scripted_core import InProcessSession
from bench.scripts import start_workload
with InProcessSession.start(backend="reference", **json.loads(sys.argv[1])) as session:
    session.execute_script(start_workload)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@cache
def server_times() -> ServerTimes:
    """Start, arrival, reset, decode and shutdown of a few servers, one after the other."""
    times = ServerTimes()
    plan = Plan(engine_kwargs=ENGINE_KWARGS)
    for _ in range(ROUNDS):
        start = time.perf_counter()
        server = ScriptedHttpServer.start(backend="reference:server", **plan.engine_kwargs)
        times.start.append(time.perf_counter() - start)

        def execute(
            script: Callable[..., Any],
            args: tuple[Any, ...],
            *,
            server: ScriptedHttpServer = server,
        ) -> None:
            server.execute_script(script, args=args, check_invariants=False)

        try:
            times.add(measure_server(execute, plan=plan))
            start = time.perf_counter()
        finally:
            server.shutdown()
        times.shutdown.append(time.perf_counter() - start)
    return times


def tiny_iterations() -> list[float]:
    """Iterations a second of the transformer in this process, 8 requests decoding."""

    def script(t: ScriptedContext, rates: list[float]) -> Iterator[None]:
        yield from start_workload(t)
        start = time.perf_counter()
        for _ in range(MEASURED_STEPS):
            yield
        rates.append(MEASURED_STEPS / (time.perf_counter() - start))

    rates: list[float] = []
    with InProcessSession.start(backend="reference", **TINY_KWARGS) as session:
        for _ in range(TINY_REPETITIONS):
            session.execute_script(script, args=(rates,), check_invariants=False)
    return rates


def session_memory() -> list[float]:
    """MiB at the peak of a fresh process that has run the workload on the `hash` model."""
    command = [sys.executable, "-c", _MEMORY, json.dumps(ENGINE_KWARGS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(done.stdout)]


def rows() -> dict[str, Callable[[], Result]]:
    """Every row by name; measured when it is called."""

    def server(name: str, unit: str, limit: float | None, samples: str) -> Callable[[], Result]:
        def measured() -> Result:
            seconds: list[float] = getattr(server_times(), samples)
            factor = 1e3 if unit == "ms" else 1.0
            target = None if limit is None else at_most(limit)
            return summarize(name, [one * factor for one in seconds], unit, target)

        return measured

    table = {
        name: server(name, unit, limit, samples)
        for name, unit, limit, samples in (
            ("reference server: start", "s", 4, "start"),
            ("reference server: start_req to arrival", "ms", 2, "arrival"),
            ("reference server: reset and no-op script", "ms", 3, "reset"),
            ("reference server: decode per yield", "ms", None, "decode"),
            ("reference server: shutdown", "s", 5, "shutdown"),
        )
    }
    memory = "reference: memory of a hash session"
    table[memory] = lambda: summarize(memory, session_memory(), "MiB", at_most(300))
    if importlib.util.find_spec("torch") is not None:
        tiny = "reference, tiny: iterations"
        table[tiny] = lambda: summarize(tiny, tiny_iterations(), "1/s", at_least(1_000))
    return table

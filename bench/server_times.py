"""The measurements of one running server; the same for every harness that drives it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench import scripts

Execute = Callable[[Callable[..., Any], tuple[Any, ...]], object]
"""Runs a script with arguments to its end."""


@dataclass(frozen=True)
class Plan:
    """What to start and how often to measure."""

    engine_kwargs: dict[str, Any]
    requests: int = 40
    resets: int = 20
    decodes: int = 3

    def write(self, path: Path) -> None:
        """Write it for another process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read what ``write`` has written."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass
class ServerTimes:
    """Seconds: of each server start, request arrival, reset with a no-op script, decode, shutdown."""

    start: list[float] = field(default_factory=list)
    arrival: list[float] = field(default_factory=list)
    reset: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)
    shutdown: list[float] = field(default_factory=list)

    def add(self, other: ServerTimes) -> None:
        """Take in the times of another server."""
        for name, seconds in other.as_json().items():
            getattr(self, name).extend(seconds)

    def as_json(self) -> dict[str, list[float]]:
        """The samples by name."""
        return asdict(self)


def measure_server(execute: Execute, *, plan: Plan) -> ServerTimes:
    """Arrival, reset and decode on one server; start and shutdown are the caller's."""
    times = ServerTimes()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"

        def seconds_of(script: Callable[..., Any], *args: Any) -> list[float]:
            execute(script, (str(file), *args))
            seconds: list[float] = json.loads(file.read_text(encoding="utf-8"))
            return seconds

        seconds_of(scripts.arrivals, 4)  # everything has run once
        times.arrival += seconds_of(scripts.arrivals, plan.requests)
        execute(scripts.noop, ())
        for _ in range(plan.resets):
            start = time.perf_counter()
            execute(scripts.noop, ())
            times.reset.append(time.perf_counter() - start)
        for _ in range(plan.decodes):
            times.decode += seconds_of(scripts.decode)
        execute(scripts.noop, ())  # nothing is left running that a shutdown would have to wait for
    return times

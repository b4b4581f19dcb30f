"""What one run of a program has seen, in a form that travels."""

from __future__ import annotations

from pathlib import Path

import msgspec


class RunReport(msgspec.Struct):
    """``steps`` iterations were checked; ``sometimes`` counts named states, ``states`` and
    ``transitions`` are abstract ones by number; ``outputs`` are those of undisturbed runs, by prompt.
    """

    steps: int = 0
    passed_over: int = 0
    """Operations that meant nothing when their turn came."""
    requests: int = 0
    sometimes: dict[str, int] = {}
    states: set[int] = set()
    transitions: set[int] = set()
    outputs: dict[str, list[int]] = {}

    def take(self, other: RunReport) -> None:
        """Add another one to this one."""
        self.steps += other.steps
        self.passed_over += other.passed_over
        self.requests += other.requests
        for name, count in other.sometimes.items():
            self.sometimes[name] = self.sometimes.get(name, 0) + count
        self.states |= other.states
        self.transitions |= other.transitions


def written(report: RunReport, path: str) -> None:
    """Leave it where the test side reads it, all of it or nothing."""
    whole = Path(path)
    part = whole.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(report))
    part.replace(whole)


def read(path: Path) -> RunReport | None:
    """What ``written`` left there; ``None`` when the engine did not come that far."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunReport)
    except FileNotFoundError:
        return None

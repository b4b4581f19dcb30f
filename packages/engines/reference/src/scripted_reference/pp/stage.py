"""One stage among those that divide a model, and the way to the others."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

from scripted_reference.models.base import BatchResult

Hidden = Any
"""What a stage hands to the next: an array or tensor of the model's own."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Number `index` of `count`."""

    index: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether it takes in token ids."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether next tokens come out of it."""
        return self.index == self.count - 1

    @property
    def name(self) -> str:
        """Its name among the ranks: `"pp0"`, `"pp1"`, ..."""
        return f"pp{self.index}"

    def layers(self, num_layers: int) -> range:
        """Return the layers of this stage: as even a share as can be, the larger ones first."""
        each, rest = divmod(num_layers, self.count)
        first = self.index * each + min(self.index, rest)
        return range(first, first + each + (self.index < rest))


class StageLink(Protocol):
    """The way of one stage to the others. Everything arrives in the order in which it was sent."""

    def send_hidden(self, hidden: Hidden) -> None:
        """Hand a batch to the next stage."""

    def recv_hidden(self) -> Hidden:
        """Wait for a batch of the stage before."""

    def send_result(self, result: BatchResult) -> None:
        """Tell every stage what came out of a batch; the last one does."""

    def recv_result(self) -> BatchResult:
        """Wait for the result of the oldest batch whose result was not received yet."""


class LocalPipe:
    """All stages in one process: each runs after the one before it, so that nobody has to wait."""

    def __init__(self, count: int) -> None:
        self._hidden: list[deque[Hidden]] = [deque() for _ in range(count)]
        self._results: list[deque[BatchResult]] = [deque() for _ in range(count)]

    def link(self, stage: Stage) -> StageLink:
        """Return the way of one stage."""
        return _LocalLink(self._hidden, self._results, stage.index)


class _LocalLink:
    def __init__(
        self, hidden: list[deque[Hidden]], results: list[deque[BatchResult]], index: int
    ) -> None:
        self._hidden = hidden
        self._results = results
        self._index = index

    def send_hidden(self, hidden: Hidden) -> None:
        self._hidden[self._index + 1].append(hidden)

    def recv_hidden(self) -> Hidden:
        return self._hidden[self._index].popleft()

    def send_result(self, result: BatchResult) -> None:
        for one in self._results:
            one.append(result)

    def recv_result(self) -> BatchResult:
        return self._results[self._index].popleft()

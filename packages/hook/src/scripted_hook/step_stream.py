"""Iterations of a running script on their way to somebody who watches it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from scripted_core.trace import StepTrace
from scripted_core.wire.messages import StepsEnded
from scripted_core.wire.transport import Channel

_INTERVAL_S = 0.04
_MOST_STEPS = 256


class StepStream:
    """Offers iterations in bundles, at most 25 a second and never more than 256 in one.

    The scheduler never waits for the reader: while that is behind, the oldest iterations are dropped.
    The whole trace travels with the outcome.
    """

    def __init__(
        self,
        *,
        channel: Channel,
        request_id: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._channel = channel
        self._request_id = request_id
        self._clock = clock
        self._pending: deque[StepTrace] = deque(maxlen=_MOST_STEPS)
        self._next_at = 0.0

    def add(self, step: StepTrace) -> None:
        """One more iteration has ended."""
        self._pending.append(step)
        now = self._clock()
        if now < self._next_at:
            return
        self._next_at = now + _INTERVAL_S
        if self._channel.offer(StepsEnded(self._request_id, tuple(self._pending))):
            self._pending.clear()

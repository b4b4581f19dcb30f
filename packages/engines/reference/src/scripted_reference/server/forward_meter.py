"""How busy a replica is: time in model forwards, tokens per second, and counts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from scripted_reference.models.base import BatchResult, KvStorage, Model
from scripted_reference.pp.models import StageModel
from scripted_reference.pp.stage import Hidden
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.server.device_timer import DeviceTimer

_T = TypeVar("_T")

WINDOW_FORWARDS = 40
"""Forwards in a window, as many as decode steps between two log lines of SGLang."""


class ForwardMeter:
    """Measures windows of `WINDOW_FORWARDS` forwards in a row; idleness ends a window unmeasured.

    Attributes:
        fwd_occupancy: percent of the latest window's time in forwards, by `timer`; NaN while idle,
            and without a timer.
        gen_throughput: tokens per second in it; 0 while idle.
        forwards_total: all forwards.
        generated_tokens_total: all tokens generated.
    """

    def __init__(
        self,
        *,
        timer: DeviceTimer | None = None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._timer = timer
        self._clock_ns = clock_ns
        self.fwd_occupancy = math.nan
        self.gen_throughput = 0.0
        self.forwards_total = 0
        self.generated_tokens_total = 0
        self._window_begun_ns: int | None = None
        self._timed_from_ns = 0
        self._forward_ns = 0
        self._forwards = 0
        self._tokens = 0

    def timed(self, forward: Callable[[], _T]) -> _T:
        """Run one forward and count its time."""
        if self._window_begun_ns is None:
            self._open_window(self._clock_ns())
        if self._timer is None:
            result = forward()
        else:
            result, forward_ns = self._timer.run(forward)
            self._forward_ns += forward_ns
        self.forwards_total += 1
        self._forwards += 1
        if self._forwards == WINDOW_FORWARDS:
            self._close_window()
        return result

    def generated(self, tokens: int) -> None:
        """So many tokens came out."""
        self._tokens += tokens
        self.generated_tokens_total += tokens

    def idle(self) -> None:
        """Nothing runs any more."""
        self.fwd_occupancy = math.nan
        self.gen_throughput = 0.0
        self._open_window(None)

    def _close_window(self) -> None:
        assert self._window_begun_ns is not None, "a window with forwards has begun"
        ended_ns = self._clock_ns()
        wall_ns = max(ended_ns - self._window_begun_ns, 1)
        self.gen_throughput = self._tokens * 1e9 / wall_ns
        if self._timer is not None:
            timed_ns = max(self._timer.now_ns() - self._timed_from_ns, 1)
            self.fwd_occupancy = min(100.0 * self._forward_ns / timed_ns, 100.0)
        self._open_window(ended_ns)

    def _open_window(self, begun_ns: int | None) -> None:
        self._window_begun_ns = begun_ns
        if self._timer is not None:
            self._timed_from_ns = self._timer.now_ns()
        self._forward_ns = self._forwards = self._tokens = 0


class MeteredModel:
    """A model whose forwards are measured."""

    def __init__(self, model: Model, meter: ForwardMeter) -> None:
        self._model = model
        self._meter = meter

    @property
    def kv(self) -> KvStorage:
        """Its KV storage."""
        return self._model.kv

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self._model.vocab_size

    @property
    def eos_token_id(self) -> int:
        """The end-of-sequence token."""
        return self._model.eos_token_id

    @property
    def supports_logprobs(self) -> bool:
        """Whether there are probabilities to tell of."""
        return self._model.supports_logprobs

    @property
    def lora_names(self) -> frozenset[str]:
        """The adapters that a request may name."""
        return self._model.lora_names

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        """Compute a prepared batch."""
        return self._meter.timed(lambda: self._model.forward(batch))

    def forward_stage(self, batch: ScheduleBatch, hidden: Hidden) -> Hidden | BatchResult:
        """Compute the layers of one pipeline stage."""
        stage: StageModel = self._model  # type: ignore[assignment]
        return self._meter.timed(lambda: stage.forward_stage(batch, hidden))

"""The scheduler of one pipeline stage: microbatch slots in turn, results a pipeline's depth late.

The loop has `pp_size + pp_async_batch_depth` slots, and one iteration is one slot: its batch is decided
on and launched, and then the result of the *next* slot's batch, launched almost a whole turn before, is
processed. So a request decodes once in a turn, always in its slot, while the chunks of one prompt go
through consecutive slots without waiting for each other. The names, and the order in which things
happen, are those of SGLang's `event_loop_pp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from scripted_reference.args import ServerArgs
from scripted_reference.models.base import BatchResult
from scripted_reference.observer import SchedulerObserver
from scripted_reference.pp.batching import PipelineBatchBuilder
from scripted_reference.pp.departures import PipelineControl, PipelineDepartures
from scripted_reference.pp.models import StageModel, load_stage
from scripted_reference.pp.stage import Hidden, Stage, StageLink
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ForwardMode, ScheduleBatch
from scripted_reference.scheduler import Scheduler

_UNKNOWN: Final = BatchResult(np.empty(0, dtype=np.int64))
"""Stands for the result of a batch that is on its way through the stages."""


class PipelineScheduler(Scheduler):
    """One stage. Its `inbox` has to get the same messages in the same iteration as that of every other.

    At an iteration boundary the coming slot is in place: `running_batch` and `last_batch` are its own.

    Attributes:
        stage: which one this is.
        loop_size: how many microbatch slots there are.
        mb_id: the slot of the coming iteration.
        mbs: for each slot the batch that was launched in it last; `None` if none was.
        running_mbs: for each slot the requests that decode in it.
        last_mbs: for each slot the last batch whose result was processed.
        micro_batch_size: requests that a slot can have.
    """

    def __init__(
        self,
        args: ServerArgs,
        *,
        stage: Stage,
        link: StageLink,
        observer: SchedulerObserver | None = None,
    ) -> None:
        self.stage = stage
        self._link = link
        super().__init__(args, observer=observer)
        self.loop_size = args.pp_size + args.pp_async_batch_depth
        self.micro_batch_size = args.micro_batch_size
        self.mb_id = 0
        self.mbs: list[ScheduleBatch | None] = [None] * self.loop_size
        self.last_mbs: list[ScheduleBatch | None] = [None] * self.loop_size
        self.running_mbs: list[ScheduleBatch] = [
            ScheduleBatch((), ForwardMode.DECODE) for _ in range(self.loop_size)
        ]
        self.running_batch = self.running_mbs[0]
        self.batches = PipelineBatchBuilder(self)
        self.departures = PipelineDepartures(self)
        self.control: PipelineControl = PipelineControl(self)

    def make_model(self, args: ServerArgs) -> StageModel:
        """Return the layers of this stage."""
        return load_stage(
            args,
            self.stage,
            kv_pool=self.token_to_kv_pool,
            req_to_token_pool=self.req_to_token_pool,
        )

    # --- one iteration

    def run_iteration(self) -> None:
        """Launch the batch of this slot, then process the result of the next slot's."""
        if self.inbox:
            self.process_input_requests(self.recv_requests())
        batch = self.get_next_batch_to_run()
        self.mbs[self.mb_id] = self.cur_batch = batch
        if batch is None:
            self.on_no_batch()
        else:
            self.launch(batch)
        self.enter_slot((self.mb_id + 1) % self.loop_size)
        self.process_slot()

    def launch(self, batch: ScheduleBatch) -> None:
        """Run this stage on a prepared batch; complete prompts join `running_batch`."""
        self.forward_ct += 1
        self.observer.on_run_batch(batch)
        hidden = None if self.stage.is_first else self._link.recv_hidden()
        out = self.forward_stage(batch, hidden)
        if isinstance(out, BatchResult):
            self._link.send_result(out)
        else:
            self._link.send_hidden(out)
        self.in_flight.push(batch, _UNKNOWN)
        if batch.forward_mode.is_extend():
            complete = [req for req in batch.reqs if req is not batch.chunked_req]
            if complete:
                self.set_running([*self.running_batch.reqs, *complete])

    def forward_stage(self, batch: ScheduleBatch, hidden: Hidden) -> Hidden | BatchResult:
        """Run this stage's layers."""
        if self.kv_watch is None:
            return self.stage_model.forward_stage(batch, hidden)
        return self.kv_watch.run(lambda one: self.stage_model.forward_stage(one, hidden), batch)

    def enter_slot(self, slot: int) -> None:
        """Put a slot in place."""
        self.mb_id = slot
        self.running_batch = self.running_mbs[slot]
        self.last_batch = self.last_mbs[slot]

    def process_slot(self) -> None:
        """Process the result of the batch that was launched in this slot a turn ago, if one was."""
        batch = self.mbs[self.mb_id]
        if batch is not None:
            flying = self.in_flight.pop()
            result = self.take_result()
            if flying.batch.forward_mode.is_decode():
                flying.batch.input_ids = result.next_token_ids
            self.results.process(flying.batch, result, discarded=flying.discarded)
            self.last_batch = self.last_mbs[self.mb_id] = batch
        self.control.look_whether_drained()

    def take_result(self) -> BatchResult:
        """Return the result of the oldest batch in flight; waits for the last stage if need be."""
        return self._link.recv_result()

    def on_no_batch(self) -> None:
        """Nothing runs in this slot: check the memory."""
        if not self.requests:
            self.batches.new_token_ratio.reset()
        self.check_memory()

    # --- the slots

    @property
    def stage_model(self) -> StageModel:
        """The layers of this stage."""
        model: StageModel = self.model  # type: ignore[assignment]
        return model

    def decoding(self) -> list[Req]:
        """Return the requests that decode, in whatever slot."""
        return [req for batch in self.running_mbs for req in batch.reqs]

    def owners(self) -> list[Req]:
        """Return the requests that have memory at an iteration boundary, slot after slot."""
        decoding = self.decoding()
        return decoding if self.chunked_req is None else [*decoding, self.chunked_req]

    def unprocessed_tokens(self) -> Mapping[Req, int]:
        """Return none: when a slot's turn comes, all of its results are processed."""
        return {}

    def set_running(self, reqs: list[Req]) -> None:
        """Replace the requests that decode in the slot in place."""
        super().set_running(reqs)
        self.running_mbs[self.mb_id] = self.running_batch

    def set_slot(self, slot: int, reqs: list[Req]) -> None:
        """Replace the requests that decode in any slot."""
        if slot == self.mb_id:
            self.set_running(reqs)
        else:
            self.running_mbs[slot] = ScheduleBatch(reqs, ForwardMode.DECODE)

"""A prefill and a decode engine in one process, and what happens between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripted_core.views import PdStage, Side

from scripted_reference.args import ServerArgs
from scripted_reference.engine import Engine
from scripted_reference.messages import GenerateReq, PauseMode
from scripted_reference.observer import SchedulerObserver
from scripted_reference.pd.arguments import refuse_windows, side_args
from scripted_reference.pd.decode import DecodeScheduler
from scripted_reference.pd.prefill import PrefillScheduler
from scripted_reference.pd.rooms import Room, Rooms, RoomState
from scripted_reference.pd.transfer import KvChunk, KvTransfer
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler


class PrefillObserver:
    """Reports the batches of a prefill engine; outputs and ends are the decode engine's to report."""

    def __init__(self, observer: SchedulerObserver) -> None:
        self._observer = observer

    def before_receive(self) -> None:
        """The pair reports that an iteration begins."""

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """A prefill goes to the model."""
        self._observer.on_run_batch(batch)

    def on_output(self, reqs: Sequence[Req]) -> None:
        """First tokens travel with the KV."""

    def on_finish(self, req: Req) -> None:
        """The prefill engine is done with a request."""


class PdEngine(Engine):
    """One iteration is one of the prefill engine, then the transfer, then one of the decode engine.

    Replica 0 is the decode engine, since that is where clients get their output from.

    Attributes:
        prefill, decode: the two schedulers, each with its own model, pools and rows.
        rooms: the requests between them.
        transfer: moves the KV.
    """

    def make_schedulers(self, args: ServerArgs) -> tuple[Scheduler, ...]:
        """Return the decode and the prefill scheduler."""
        self.rooms = Rooms()
        self.decode = DecodeScheduler(side_args(args, Side.DECODE), rooms=self.rooms)
        self.prefill = PrefillScheduler(side_args(args, Side.PREFILL), rooms=self.rooms)
        refuse_windows(self.decode, args)
        self.transfer = KvTransfer(
            rooms=self.rooms,
            copy=lambda chunk: self._copy_kv(chunk),  # a fault may be put in its place
            timeout_iterations=args.transfer_timeout_iterations,
        )
        self.prefill.transfer = self.transfer
        return (self.decode, self.prefill)

    @property
    def pool_names(self) -> tuple[str, ...]:
        """`"full"` is the decode engine's pool."""
        return ("full", "full@prefill")

    @property
    def observer(self) -> SchedulerObserver:
        """Who is told of iterations, batches of both engines, outputs and finishes."""
        return self._observer

    @observer.setter
    def observer(self, observer: SchedulerObserver) -> None:
        self._observer = observer
        self.decode.observer = observer
        self.prefill.observer = PrefillObserver(observer)

    @property
    def requests(self) -> Mapping[str, Req]:
        """Every live request by rid, the decode engine's own where it has one."""
        return {**self.decode.requests, **self._left_to_prefill()}

    def extra_parts(self) -> tuple[object, ...]:
        """Return the rooms and the transfer."""
        return (self.rooms, self.transfer)

    def validate(self, spec: GenerateReq) -> str | None:
        """Return why a request is refused before it is posted, or `None` if it is not."""
        if spec.rid in self.rooms:
            return f"The request id {spec.rid!r} is in use by a live request."
        return super().validate(spec) or self.prefill_refusal(spec)

    def prefill_refusal(self, spec: GenerateReq) -> str | None:
        """Return why the prefill engine cannot compute a prompt, or `None` if it can."""
        refusal = self.prefill.limits.refusal(spec)
        return None if refusal is None else f"Prefill engine: {refusal}"

    def deliver_request(self, message: GenerateReq) -> None:
        """Hand a request to both engines, unless one refuses it."""
        self.decode.process_input_requests([message])
        req = self.decode.find_req(message.rid)
        if req is None:
            return
        refusal = self.prefill_refusal(message)
        if refusal is not None:
            self.decode.departures.abort(req, refusal)
            self.rooms.close(req.rid)
            return
        self.prefill.process_input_requests([message])

    def run_schedulers(self) -> None:
        """Prefill, transfer, decode; then let each engine know which requests the other has lost."""
        self.settle_rooms()  # what was aborted just now must not receive anything any more
        self.prefill.run_iteration()
        self.transfer.run()
        self.decode.run_iteration()
        self.settle_rooms()

    def settle_rooms(self) -> None:
        """Let each engine know which requests the other has lost."""
        for room in self.rooms:
            self._settle(room)

    def is_fully_idle(self) -> bool:
        """Return whether nothing is live, on its way in, or on its way between the engines."""
        return super().is_fully_idle() and not self.transfer.pending

    def flush_cache(self) -> bool:
        """Empty both engines' memory; return `False`, and change nothing, unless all is idle."""
        return not self.transfer.pending and super().flush_cache()

    def stage(self, rid: str) -> PdStage:
        """Return where a request is."""
        decode, prefill = self.decode, self.prefill
        req, room = decode.find_req(rid), self.rooms.get(rid)
        if req is None or room is None:
            return PdStage.GONE if prefill.find_req(rid) is None else PdStage.TRANSFERRING
        if any(one.req is req for one in decode.disagg_decode_retracted_queue):
            return PdStage.RETRACTED
        if req in decode.running_batch.reqs:
            return PdStage.DECODING
        if room.state is RoomState.COMPLETE:
            return PdStage.TRANSFERRED
        other = prefill.find_req(rid)
        if other is not None and other in prefill.disagg_prefill_inflight_queue:
            return PdStage.TRANSFERRING
        if other is not None and other.req_pool_idx is not None:
            return PdStage.PREFILLING
        return PdStage.QUEUED

    def _copy_kv(self, chunk: KvChunk) -> None:
        rid, start, end = chunk.room.rid, chunk.start, chunk.end
        source, target = self.prefill.find_req(rid), self.decode.find_req(rid)
        assert source is not None, f"{rid} has left the prefill engine before its KV"
        assert target is not None, f"{rid} has left the decode engine before its KV came"
        from_slots = self.prefill.slots_of(source)[start:end]
        to_slots = self.decode.slots_of(target)[start:end]
        contents = self.prefill.model.kv.read(from_slots)
        self.decode.model.kv.write(to_slots, contents)
        if self.prefill.kv_watch is not None and self.decode.kv_watch is not None:
            self.decode.kv_watch.put(to_slots, self.prefill.kv_watch.take(from_slots))

    def _settle(self, room: Room) -> None:
        """End a request in one engine that has failed or ended in the other; close a room of neither."""
        ahead, behind = self.decode.find_req(room.rid), self.prefill.find_req(room.rid)
        if room.state in (RoomState.OPEN, RoomState.READY) and (ahead is None or behind is None):
            side = Side.DECODE if ahead is None else Side.PREFILL
            room.fail(f"the {side.value} engine has ended the request")
        if room.state is RoomState.FAILED:
            _abort(self.decode, ahead, room.message)
            _abort(self.prefill, behind, room.message)
        if self.decode.find_req(room.rid) is None and self.prefill.find_req(room.rid) is None:
            self.rooms.close(room.rid)

    def _left_to_prefill(self) -> Mapping[str, Req]:
        return {
            rid: req
            for rid, req in self.prefill.requests.items()
            if rid not in self.decode.requests
        }


def _abort(scheduler: Scheduler, req: Req | None, message: str) -> None:
    # An engine that is paused in place ends nothing; it is asked again in the next iteration.
    if req is not None and scheduler.paused is not PauseMode.IN_PLACE:
        scheduler.departures.abort(req, message)

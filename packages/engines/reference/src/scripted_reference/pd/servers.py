"""The engines of a pair as two servers: each has its own rooms, and the wire between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import zmq
from scripted_core.views import PdStage, Side

from scripted_reference.args import ServerArgs
from scripted_reference.engine import Engine
from scripted_reference.messages import PauseMode
from scripted_reference.pd.arguments import refuse_windows, side_args
from scripted_reference.pd.decode import DecodeScheduler
from scripted_reference.pd.decode_link import DecodeLink
from scripted_reference.pd.prefill import PrefillScheduler
from scripted_reference.pd.prefill_link import Outgoing, PrefillLink
from scripted_reference.pd.rooms import Rooms, RoomState
from scripted_reference.pd.transfer import KvChunk, KvTransfer
from scripted_reference.request import Req
from scripted_reference.scheduler import Scheduler

_UNDER_WAY = (RoomState.OPEN, RoomState.READY)


class PrefillServerScheduler(PrefillScheduler):
    """Opens the room of a request itself, and tells its front of the end of each."""

    link: PrefillLink

    def enqueue(self, req: Req) -> None:
        """Let a request wait for the decode server's memory."""
        assert req.bootstrap is not None, "the front refuses requests without a room"
        super().enqueue(req)
        self.link.open(req.rid, prompt_len=len(req.origin_input_ids), number=req.bootstrap.room)

    def let_go(self, req: Req) -> None:
        """Its KV has arrived: that is its end here."""
        req.finished_reason = req.finish_after(req.output_ids[-1])
        super().let_go(req)


class DecodeServerScheduler(DecodeScheduler):
    """Meets the prefill server of each request in the room that the router has chosen."""

    link: DecodeLink

    def open_room(self, req: Req) -> None:
        """Tell the prefill server of a request, once there is something to tell."""
        assert req.bootstrap is not None, "the front refuses requests without a room"
        self.link.open(req.rid, prompt_len=len(req.origin_input_ids), bootstrap=req.bootstrap)


class PdServerEngine(Engine, ABC):
    """What both have in common: receive, iterate, and let the other know what has ended.

    Attributes:
        rooms: the requests that are not done with their transfer.
    """

    rooms: Rooms

    def extra_parts(self) -> tuple[object, ...]:
        """Return the rooms."""
        return (self.rooms,)

    def is_fully_idle(self) -> bool:
        """Return whether nothing is live, on its way in, or between the servers."""
        return super().is_fully_idle() and not any(True for _ in self.rooms)

    @property
    @abstractmethod
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """Where the other server is heard of."""

    @property
    def waits_for_partner(self) -> bool:
        """Whether nothing happens until the other server says something."""
        scheduler = self.scheduler
        return scheduler.last_batch is None and not len(scheduler.in_flight)

    def _abort(self, req: Req, message: str) -> None:
        # An engine that is paused in place ends nothing; it is asked again in the next iteration.
        if self.scheduler.paused is not PauseMode.IN_PLACE:
            self.scheduler.departures.abort(req, message)


class PrefillServer(PdServerEngine):
    """The engine of a prefill server."""

    def __init__(self, args: ServerArgs, *, context: zmq.Context[Any], host: str) -> None:
        self._context = context
        self._host = host
        super().__init__(args)

    def make_schedulers(self, args: ServerArgs) -> tuple[Scheduler, ...]:
        """Return the prefill scheduler."""
        self.rooms = Rooms()
        self.prefill = PrefillServerScheduler(side_args(args, Side.PREFILL), rooms=self.rooms)
        refuse_windows(self.prefill, args)
        self.link = PrefillLink(
            self._context,
            host=self._host,
            port=args.disaggregation_bootstrap_port,
            rooms=self.rooms,
            read=self._read,
        )
        self.prefill.link = self.link
        self.prefill.transfer = self.link
        return (self.prefill,)

    @property
    def watch_names(self) -> tuple[str, ...]:
        """Its pool has the name that it has in a pair in one process."""
        return ("full@prefill",)

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """Where decode servers are heard."""
        return (self.link.socket,)

    def run_schedulers(self) -> None:
        """Receive, prefill, and say what has ended."""
        self.link.receive()
        self._settle()
        self.prefill.run_iteration()
        self._settle()
        self.link.tell_of_restarts()

    def stage(self, req: Req) -> PdStage:
        """Return how far a live request is here."""
        if req in self.prefill.disagg_prefill_inflight_queue:
            return PdStage.TRANSFERRING
        return PdStage.QUEUED if req.req_pool_idx is None else PdStage.PREFILLING

    def _read(self, rid: str, start: int, end: int) -> Outgoing:
        req = self.prefill.find_req(rid)
        assert req is not None, f"{rid} has left the engine before its KV was sent"
        slots = self.prefill.slots_of(req)[start:end]
        watch = self.prefill.kv_watch
        known = None if watch is None else watch.send(slots)
        return Outgoing(self.prefill.model.kv.read(slots), known)

    def _settle(self) -> None:
        for room in self.rooms:
            req = self.prefill.find_req(room.rid)
            if room.state is RoomState.FAILED and req is not None:
                self._abort(req, room.message)
                req = self.prefill.find_req(room.rid)
            if req is None:
                early = room.state in _UNDER_WAY
                self.link.close(room, message=_ended(Side.PREFILL) if early else None)


class DecodeServer(PdServerEngine):
    """The engine of a decode server."""

    def __init__(self, args: ServerArgs, *, context: zmq.Context[Any]) -> None:
        self._context = context
        super().__init__(args)

    def make_schedulers(self, args: ServerArgs) -> tuple[Scheduler, ...]:
        """Return the decode scheduler."""
        self.rooms = Rooms()
        self.decode = DecodeServerScheduler(side_args(args, Side.DECODE), rooms=self.rooms)
        refuse_windows(self.decode, args)
        self.link = self.decode.link = DecodeLink(self._context, rooms=self.rooms)
        self.transfer = KvTransfer(
            rooms=self.rooms,
            copy=self._write,
            timeout_iterations=args.transfer_timeout_iterations,
        )
        return (self.decode,)

    def extra_parts(self) -> tuple[object, ...]:
        """Return the rooms and the transfer."""
        return (self.rooms, self.transfer)

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        """Where prefill servers are heard."""
        return self.link.sockets

    @property
    def waits_for_partner(self) -> bool:
        """Whether nothing happens until a prefill server says something."""
        decode = self.decode
        moves = decode.waiting_queue or decode.disagg_decode_retracted_queue
        return (
            super().waits_for_partner
            and not moves
            and not self.transfer.pending
            and not any(room.has_sent_all for room in self.rooms)
        )

    def run_schedulers(self) -> None:
        """Receive, let the transfer deliver, decode, and say what has arrived and what has ended."""
        self.link.receive(self.transfer)
        self._settle()
        self.transfer.run()
        self.decode.run_iteration()
        self._settle()

    def is_fully_idle(self) -> bool:
        """Return whether nothing is live, on its way in, or between the servers."""
        return super().is_fully_idle() and not self.transfer.pending

    def flush_cache(self) -> bool:
        """Empty the memory; return `False`, and change nothing, unless all is idle."""
        return not self.transfer.pending and super().flush_cache()

    def stage(self, rid: str) -> PdStage | None:
        """Return where a request is as far as it is known here; `QUEUED` until its KV has come."""
        decode = self.decode
        req = decode.find_req(rid)
        if req is None:
            return None
        if any(one.req is req for one in decode.disagg_decode_retracted_queue):
            return PdStage.RETRACTED
        if req in decode.running_batch.reqs:
            return PdStage.DECODING
        room = self.rooms.get(rid)
        if room is None or room.state is RoomState.COMPLETE:
            return PdStage.TRANSFERRED
        return PdStage.TRANSFERRING if room.has_sent_all else PdStage.QUEUED

    def _write(self, chunk: KvChunk) -> None:
        req = self.decode.find_req(chunk.room.rid)
        assert req is not None, f"{chunk.room.rid} has left the engine before its KV came"
        assert chunk.contents is not None, "between two processes KV comes with the chunk"
        slots = self.decode.slots_of(req)[chunk.start : chunk.end]
        if self.decode.kv_watch is not None:
            self.decode.kv_watch.receive(slots, chunk.watched)
        self.decode.model.kv.write(slots, chunk.contents)

    def _settle(self) -> None:
        for room in self.rooms:
            req = self.decode.find_req(room.rid)
            if room.state is RoomState.FAILED and req is not None:
                self._abort(req, room.message)
                req = self.decode.find_req(room.rid)
            if req is not None:
                self.link.tell(room)
                continue
            if room.state is RoomState.COMPLETE:
                self.link.tell(room)
                self.link.close(room)
            else:
                message = room.message or _ended(Side.DECODE)
                self.link.close(room, message=message)


def _ended(side: Side) -> str:
    return f"the {side.value} engine has ended the request"

"""The reference engine behind ``EngineAdapter``, when it runs as a server.

State is read as in an in-process session. Requests travel as a user's do, over HTTP through the
front; control operations are injected into the inbox behind what has arrived.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import msgspec
from scripted_core.capabilities import Capability
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    ControlOp,
    ControlReceipt,
    Evict,
    Exhaust,
    Flush,
    Pause,
    ReleaseHeld,
)
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import FinishKind, FinishReason
from scripted_core.wire.address import role_of_process
from scripted_hook import BackgroundHttpPoster, ScriptedTokenizerRecvProxy
from scripted_hook.generate_client import GenerateClient

from scripted_reference import messages
from scripted_reference.adapter import ReferenceAdapter
from scripted_reference.args import ServerArgs
from scripted_reference.engine import Engine
from scripted_reference.server import wire
from scripted_reference.server.inbox import Belonging

ARRIVAL_TIMEOUT_S = 20.0
_HTTP_CALLS: Mapping[type, tuple[str, type]] = {
    Pause: ("/pause_generation", wire.Pause),
    Continue: ("/continue_generation", wire.Continue),
    Abort: ("/abort_request", wire.Abort),
    AbortAll: ("/abort_request", wire.Abort),
    Flush: ("/flush_cache", wire.Flush),
}


class ServerAdapter(ReferenceAdapter):
    """Reads the engine of this process, and reaches it through its own front at `base_url`."""

    def __init__(
        self,
        engine: Engine,
        *,
        inbox: ScriptedTokenizerRecvProxy,
        belonging: Belonging,
        base_url: str,
        args: ServerArgs,
    ) -> None:
        super().__init__(engine)
        self._args = args
        self.capabilities |= {Capability.HTTP, Capability.PROCESSES}
        self._inbox = inbox
        self._belonging = belonging
        self._base_url = base_url
        self._http_flushes: list[ControlReceipt] = []
        self.poster = BackgroundHttpPoster()
        self._client = GenerateClient(poster=self.poster, base_url=base_url)

    # -- the way in ----------------------------------------------------------------------------

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """POST to `/generate`, and return once the request is in the inbox or was refused."""
        self._belonging.rids.add(spec.rid)
        self._client.post(spec, client)

        def ended() -> bool:
            self._client.acknowledge()
            return client.ended

        arrived = self._inbox.wait_until_arrived(
            lambda message: isinstance(message, wire.Generate) and message.rid == spec.rid,
            timeout_s=ARRIVAL_TIMEOUT_S,
            description=f"request {spec.rid!r}",
            wake_fd=self._client.wake_fd,
            cancelled=ended,
        )
        if arrived is not None:
            return None
        return FinishReason(kind=FinishKind.REFUSED, message=self.refusal_of(client))

    def refusal_of(self, client: ClientStream) -> str:
        """Why a front has refused a request."""
        client.error = _error_message(client.error or "refused")
        return client.error

    def post(self, message: messages.Message) -> None:
        """Into the inbox, behind everything that has arrived."""
        self._inbox.inject(message)

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """Send an operation over HTTP, and wait until it is in the inbox.

        There is no HTTP call for memory operations, which go the usual way.
        """
        if isinstance(op, (Evict, Exhaust, ReleaseHeld)):
            return self.control(op)
        path, message_type = _HTTP_CALLS[type(op)]
        receipt = ControlReceipt(op)
        if isinstance(op, Flush):
            self._http_flushes.append(receipt)
        self._belonging.expected.add(message_type)
        self.poster.post(self._base_url + path, _body(op))
        if not await_arrival:
            return receipt
        try:
            self._inbox.wait_until_arrived(
                lambda message: isinstance(message, message_type),
                timeout_s=ARRIVAL_TIMEOUT_S,
                description=f"POST {path}",
            )
        finally:
            self._belonging.expected.discard(message_type)
        if not isinstance(op, Flush):
            receipt.settle(True)
        return receipt

    def http_flushed(self, ok: bool) -> None:
        """A flush that came over HTTP was done, or refused."""
        for receipt in self._http_flushes:
            receipt.settle(ok, "" if ok else "the engine is not idle")
        self._http_flushes.clear()

    # -- state ---------------------------------------------------------------------------------

    def is_idle(self) -> bool:
        """No request is waiting or running, nor on its way in."""
        ahead = (wire.Generate, messages.GenerateReq)
        return super().is_idle() and not any(isinstance(m, ahead) for m in self._inbox.buffered)

    def is_fully_idle(self) -> bool:
        """Idle with an empty inbox."""
        return super().is_fully_idle() and not len(self._inbox)

    # -- the rest of the protocol --------------------------------------------------------------

    def begin_hold(self) -> None:
        """Park what others send."""
        super().begin_hold()
        self._belonging.rids.clear()
        self._inbox.hold()

    def end_hold(self) -> None:
        """Let in what others have sent meanwhile."""
        self._belonging.expected.clear()
        self._inbox.release()

    def pids(self) -> Mapping[str, int]:
        """This process; the front is the one that the session started."""
        return {role_of_process("scheduler", os.environ): os.getpid()}

    def base_url(self) -> str:
        """Of the front."""
        return self._base_url

    def server_arguments(self) -> Mapping[str, Any]:
        """All of the engine's arguments; what has no effect here is not among them."""
        return {one.name: getattr(self._args, one.name) for one in dataclasses.fields(self._args)}

    def close(self) -> None:
        """Let go of the HTTP thread."""
        super().close()
        self.poster.close()
        self._client.close()


def _body(op: ControlOp) -> dict[str, Any]:
    match op:
        case Pause(mode=mode):
            return {"mode": mode.value}
        case Abort(rid=rid):
            return {"rid": rid}
        case AbortAll():
            return {"abort_all": True}
        case Continue(torch_empty_cache=empty):
            return {"torch_empty_cache": empty}
        case _:
            return {}


def _error_message(text: str) -> str:
    """The message in an error body of the front; any other text as it is."""
    try:
        return str(msgspec.json.decode(text)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return text

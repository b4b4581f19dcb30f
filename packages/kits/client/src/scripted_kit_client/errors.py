"""What can go wrong between a kit and a server; all are errors of `scripted_core.errors`' tree."""

from __future__ import annotations

from scripted_core.errors import EngineError, ScriptedError, TransportError


class ServerUnreachable(EngineError):
    """Nothing has answered at the URL, or what answered is no server that kits know."""

    code = "server-unreachable"


class RequestRefused(EngineError):
    """The server answered a request with an error; `status` is the HTTP status."""

    code = "request-refused"
    status = 0

    def __init__(self, message: str, *, status: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class RequestTimedOut(TransportError):
    """A request was not answered within its time."""

    code = "request-timed-out"


class ConnectionBroken(TransportError):
    """The server closed a connection before the reply was complete, and lives on."""

    code = "connection-broken"


class CheckFailed(ScriptedError, AssertionError):
    """A probe saw something else than it has to be; the message says what."""

    code = "check-failed"


class KitFailed(ScriptedError, AssertionError):
    """At least one check of a kit failed; the message has each of them with what was seen."""

    code = "kit-failed"

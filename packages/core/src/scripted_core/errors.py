"""The error tree: every error has a stable ``code`` and, where one is known, a ``hint``.

Two of them are assertion errors (:class:`ScriptFailed`, :class:`LeakDetected`): an expectation about
the engine did not hold, and the test FAILS. All others mean that the harness or the engine broke,
and the test is an ERROR. :class:`CapabilityMissing` becomes a skip.
"""

from __future__ import annotations

from scripted_registry.errors import (
    ConfigError,
    PluginConflict,
    PluginContractError,
    PluginError,
    PluginImportError,
    PluginNotFound,
    ScriptedError,
)

__all__ = [
    "CapabilityMissing",
    "ConfigError",
    "EngineBusy",
    "EngineDied",
    "EngineDirty",
    "EngineError",
    "EngineStartError",
    "EngineUnreachable",
    "ExhaustError",
    "HandshakeError",
    "KeyRefused",
    "LeakDetected",
    "PluginConflict",
    "PluginContractError",
    "PluginError",
    "PluginImportError",
    "PluginNotFound",
    "ProtocolMismatch",
    "ReplyTimeout",
    "ResourceError",
    "ScriptError",
    "ScriptFailed",
    "ScriptNotImportable",
    "ScriptStalled",
    "ScriptedError",
    "StepsExhausted",
    "TransportError",
    "error_from_code",
]


class EngineError(ScriptedError):
    """The engine itself could not do its part."""

    code = "engine-error"


class EngineStartError(EngineError):
    """The engine refused its arguments or ended before it was ready."""

    code = "engine-start"


class EngineDied(EngineError):
    """A process of the engine ended while it was needed."""

    code = "engine-died"


class EngineDirty(EngineError):
    """The engine is in an unknown state after an earlier failure and takes no more scripts."""

    code = "engine-dirty"


class EngineBusy(EngineError):
    """Another test client, whom the message names, is attached to the engine."""

    code = "engine-busy"


class CapabilityMissing(EngineError):
    """The engine cannot do what the script asks for; the test is skipped with this reason."""

    code = "capability-missing"


class TransportError(ScriptedError):
    """The wire between the test side and the engine side broke."""

    code = "transport-error"


class EngineUnreachable(TransportError):
    """Nobody listens at the address that was to be attached to, or no answer came from there."""

    code = "engine-unreachable"


class HandshakeError(TransportError):
    """The peer on the wire did not prove to be the engine that was started."""

    code = "handshake"


class KeyRefused(HandshakeError):
    """The engine does not let this key in, or it is not the engine that the key is for."""

    code = "key-refused"


class ProtocolMismatch(HandshakeError):
    """The two sides speak different versions of the wire protocol."""

    code = "protocol-mismatch"


class ReplyTimeout(TransportError):
    """An answer did not come within its deadline."""

    code = "reply-timeout"


class ScriptError(ScriptedError):
    """Something is wrong with the script rather than with the engine."""

    code = "script-error"


class ScriptNotImportable(ScriptError):
    """The engine side cannot get at the script or at one of its arguments."""

    code = "script-not-importable"


class ScriptStalled(ScriptError):
    """The script or the engine made no progress for the length of the stall deadline."""

    code = "script-stalled"


class ScriptFailed(ScriptError, AssertionError):
    """The script raised; the message holds the traceback from the engine side.

    ``remote_traceback`` and ``last_state`` are the two parts on their own (empty when unknown);
    ``raised`` are the classes of what the script raised, base classes too, as ``module:Name``.
    """

    code = "script-failed"
    remote_traceback = ""
    last_state = ""
    raised: tuple[str, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        remote_traceback: str = "",
        last_state: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.remote_traceback = remote_traceback
        self.last_state = last_state


class StepsExhausted(ScriptFailed):
    """A bounded wait inside a script used up its steps; the message holds the last state."""

    code = "steps-exhausted"


class ResourceError(ScriptedError):
    """A memory resource of the engine is not as it has to be."""

    code = "resource-error"


class ExhaustError(ResourceError):
    """An exhauster was asked for something impossible."""

    code = "exhaust"


class LeakDetected(ResourceError, AssertionError):
    """An invariant about the engine's memory or requests does not hold."""

    code = "leak-detected"


def _tree(root: type[ScriptedError]) -> dict[str, type[ScriptedError]]:
    # A class without a code of its own goes by that of the class above it, and is rebuilt as that.
    found = {root.code: root} if "code" in vars(root) else {}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def error_from_code(code: str, message: str, *, hint: str | None = None) -> ScriptedError:
    """Rebuild an error that travelled as ``code`` and text; an unknown code gives the root class.

    A class whose constructor wants something else than a message is made without calling it.
    """
    cls = _tree(ScriptedError).get(code, ScriptedError)
    error = cls.__new__(cls, message)
    ScriptedError.__init__(error, message, hint=hint)
    return error

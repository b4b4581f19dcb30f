"""Scripts that drive an LLM serving engine's scheduler, one iteration per ``yield``.

Public names are loaded on first use, so that importing the package (as the pytest plugin does in
every pytest run) costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scripted_core._version import __version__

if TYPE_CHECKING:
    from scripted_core.capabilities import Capability
    from scripted_core.context import ScriptedContext, ScriptedContextReqStarter
    from scripted_core.errors import (
        CapabilityMissing,
        ConfigError,
        EngineDied,
        EngineDirty,
        EngineError,
        EngineStartError,
        EngineUnreachable,
        ExhaustError,
        HandshakeError,
        KeyRefused,
        LeakDetected,
        ProtocolMismatch,
        ReplyTimeout,
        ResourceError,
        ScriptedError,
        ScriptError,
        ScriptFailed,
        ScriptNotImportable,
        ScriptStalled,
        StepsExhausted,
        TransportError,
    )
    from scripted_core.handle import ScriptedReqHandle
    from scripted_core.scripts import resolve_fn
    from scripted_core.sessions import InProcessSession, ScriptedHttpServer
    from scripted_core.unittest_case import ScriptedTestCase
    from scripted_core.views import (
        FinishKind,
        FinishReason,
        ForwardMode,
        PauseMode,
        RequestStatus,
        ScriptedBatchRecord,
    )

_HOMES = {
    "Capability": "capabilities",
    "ScriptedContext": "context",
    "ScriptedContextReqStarter": "context",
    "CapabilityMissing": "errors",
    "ConfigError": "errors",
    "EngineBusy": "errors",
    "EngineDied": "errors",
    "EngineDirty": "errors",
    "EngineError": "errors",
    "EngineStartError": "errors",
    "EngineUnreachable": "errors",
    "ExhaustError": "errors",
    "HandshakeError": "errors",
    "KeyRefused": "errors",
    "LeakDetected": "errors",
    "ProtocolMismatch": "errors",
    "ReplyTimeout": "errors",
    "ResourceError": "errors",
    "ScriptError": "errors",
    "ScriptFailed": "errors",
    "ScriptNotImportable": "errors",
    "ScriptStalled": "errors",
    "ScriptedError": "errors",
    "StepsExhausted": "errors",
    "TransportError": "errors",
    "ScriptedReqHandle": "handle",
    "resolve_fn": "scripts",
    "InProcessSession": "sessions",
    "ScriptedHttpServer": "sessions",
    "ScriptedTestCase": "unittest_case",
    "FinishKind": "views",
    "FinishReason": "views",
    "ForwardMode": "views",
    "PauseMode": "views",
    "RequestStatus": "views",
    "ScriptedBatchRecord": "views",
}

__all__ = [
    "Capability",
    "CapabilityMissing",
    "ConfigError",
    "EngineBusy",
    "EngineDied",
    "EngineDirty",
    "EngineError",
    "EngineStartError",
    "EngineUnreachable",
    "ExhaustError",
    "FinishKind",
    "FinishReason",
    "ForwardMode",
    "HandshakeError",
    "InProcessSession",
    "KeyRefused",
    "LeakDetected",
    "PauseMode",
    "ProtocolMismatch",
    "ReplyTimeout",
    "RequestStatus",
    "ResourceError",
    "ScriptError",
    "ScriptFailed",
    "ScriptNotImportable",
    "ScriptStalled",
    "ScriptedBatchRecord",
    "ScriptedContext",
    "ScriptedContextReqStarter",
    "ScriptedError",
    "ScriptedHttpServer",
    "ScriptedReqHandle",
    "ScriptedTestCase",
    "StepsExhausted",
    "TransportError",
    "__version__",
    "resolve_fn",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"scripted_core.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

"""Engine side of scripted: the dispatch loop and the EngineAdapter protocol."""

from __future__ import annotations

from scripted_core.views import ScriptedBatchRecord
from scripted_core.wire.messages import (
    HookReady,
    OutOfBandError,
    RunScript,
    ScriptFailed,
    ScriptSucceeded,
    Shutdown,
)

from scripted_hook._version import __version__
from scripted_hook.adapter import BatchFacts, EngineAdapter, EngineEvents
from scripted_hook.attach import maybe_init_scripted_scheduler_hook
from scripted_hook.free_list import FreeListPool
from scripted_hook.in_process import InProcessDefaults, InProcessEngine
from scripted_hook.poster import BackgroundHttpPoster
from scripted_hook.recv_proxy import ScriptedTokenizerRecvProxy
from scripted_hook.scheduler_hook import ScriptedSchedulerHook

__all__ = [
    "BackgroundHttpPoster",
    "BatchFacts",
    "EngineAdapter",
    "EngineEvents",
    "FreeListPool",
    "HookReady",
    "InProcessDefaults",
    "InProcessEngine",
    "OutOfBandError",
    "RunScript",
    "ScriptFailed",
    "ScriptSucceeded",
    "ScriptedBatchRecord",
    "ScriptedSchedulerHook",
    "ScriptedTokenizerRecvProxy",
    "Shutdown",
    "__version__",
    "maybe_init_scripted_scheduler_hook",
]

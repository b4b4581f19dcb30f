"""What a script holds as ``t``: control of, and a look into, the engine."""

from __future__ import annotations

from scripted_core.context.api import ScriptedContext
from scripted_core.context.req_starter import ScriptedContextReqStarter

__all__ = ["ScriptedContext", "ScriptedContextReqStarter"]

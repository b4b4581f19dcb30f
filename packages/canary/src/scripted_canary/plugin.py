"""Where the canary meets an engine: built with it, told of each script, asked after each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_core.kv_watch import KvWatchPort
from scripted_registry import Violation, hookimpl

from scripted_canary.settings import CanaryMode, settings_of

if TYPE_CHECKING:
    from scripted_core.context import ScriptedContext

    from scripted_canary.canary import Canary

SCRIPTED_API = 1
_current: list[Canary] = []
"""The canary of the engine whose script runs in this process; empty when it has none."""


@hookimpl
def scripted_engine_built(port: object) -> None:
    """Put a canary into an engine whose arguments ask for one."""
    if isinstance(port, KvWatchPort):
        install(port)


def install(port: KvWatchPort) -> Canary | None:
    """Return the canary of an engine, a new one if it has none yet; ``None`` where none is wanted."""
    settings = settings_of(port.kv_watch_settings())
    if settings.mode is CanaryMode.OFF:
        return None
    from scripted_canary.canary import Canary  # NumPy is not needed without one

    if isinstance(port.kv_watcher, Canary):
        return port.kv_watcher
    from scripted_canary.rates import rates_from_environment

    canary = Canary(port, settings=settings)
    canary.perturber.every(rates_from_environment())
    canary.attach()
    return canary


@hookimpl
def scripted_on_reset(context: ScriptedContext) -> None:
    """From now on violations belong to this script."""
    _current.clear()
    engine = context.engine
    canary = install(engine) if isinstance(engine, KvWatchPort) else None
    if canary is not None:
        canary.begin_script(is_on=lambda: not context.has_ended)
        canary.perturber.disarm_script()
        _current.append(canary)


@hookimpl
def scripted_check_invariants() -> list[Violation]:
    """What the canary found in this iteration, in mode ``raise``."""
    return [
        Violation(
            code=f"kv-{one.reason.value}", message=one.describe(), subject=one.rid or one.pool
        )
        for canary in _current
        for one in canary.collect()
    ]


@hookimpl
def scripted_context_tool(name: str, context: ScriptedContext) -> object | None:
    """``t.canary`` and ``t.perturb``."""
    if name not in ("canary", "perturb"):
        return None
    from scripted_canary.script_tools import canary_of, perturb_of

    return canary_of(context) if name == "canary" else perturb_of(context)

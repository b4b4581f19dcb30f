"""Memory calls of the context: exhausters by name, the prefix tree, and pool figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripted_registry import get_plugin_manager

from scripted_core.capabilities import Capability
from scripted_core.errors import ConfigError, ExhaustError, PluginNotFound
from scripted_core.memory_ports import PrefixTree
from scripted_core.ops import Exhaust, ReleaseHeld
from scripted_core.ranks import engine_figures
from scripted_core.requests import require_int

if TYPE_CHECKING:
    from scripted_core.context.api import ScriptedContext

_EVICTABLE = ("count", "evict")


def exhaust_kv(context: ScriptedContext, *, leave_pages: int, pool: str, evictable: str) -> None:
    """Check against the pool as it is now, then post; see ``ScriptedContext.exhaust_kv``."""
    require_int("exhaust_kv", "leave_pages", leave_pages, at_least=0)
    if evictable not in _EVICTABLE:
        raise ConfigError(
            f"exhaust_kv: unknown evictable={evictable!r}", hint=f"one of {', '.join(_EVICTABLE)}"
        )
    pools = context.engine.kv_pools
    if pool not in pools:
        raise ConfigError(
            f"exhaust_kv: engine {context.engine.name!r} has no KV pool {pool!r}",
            hint=f"its pools: {', '.join(sorted(pools))}",
        )
    found = pools[pool]
    reachable = found.available + found.evictable
    if leave_pages > reachable:
        raise ExhaustError(
            f"exhaust_kv: leave_pages={leave_pages} is more than the {reachable} pages "
            f"that pool {pool!r} has left ({found.available} free, {found.evictable} evictable)",
            hint=f"leave_pages goes from 0 to {reachable} here",
        )
    exhaust(context, "kv", {"leave_pages": leave_pages, "pool": pool, "evictable": evictable})


def exhaust_lock_refs(context: ScriptedContext, *, leave_refs: int) -> None:
    """Check, then post; see ``ScriptedContext.exhaust_lock_refs``."""
    require_int("exhaust_lock_refs", "leave_refs", leave_refs, at_least=0)
    context.require(Capability.LOCK_REFS, "exhaust_lock_refs()")
    exhaust(context, "lock_refs", {"leave_refs": leave_refs})


def exhaust(context: ScriptedContext, name: str, params: dict[str, Any]) -> None:
    """Post the registered exhauster ``name``; ``PluginNotFound`` when there is none."""
    plugins = get_plugin_manager()
    try:
        spec = plugins.exhauster(name)
    except PluginNotFound as error:
        if plugins.exhausters():
            raise
        raise PluginNotFound(
            f"no exhauster {name!r}: no package that brings exhausters is installed",
            hint="pip install scripted-exhausters",
        ) from error
    if spec.capability is not None:
        context.require(Capability(spec.capability), f"exhauster {name!r}")
    context.acting_hook.post(Exhaust(name=name, params=params))


def tool(context: ScriptedContext, name: str) -> Any:
    """What a package brings as ``t.<name>``; ``PluginNotFound`` when none does."""
    found = get_plugin_manager().hook.scripted_context_tool(name=name, context=context)
    if found is None:
        raise PluginNotFound(
            f"t.{name}: no package that brings it is installed",
            hint="pip install 'scripted-core[canary]'",
        )
    return found


def release_held(context: ScriptedContext) -> None:
    """Post the release of everything that exhausters hold."""
    context.acting_hook.post(ReleaseHeld())


def _tree(context: ScriptedContext, what: str) -> PrefixTree | None:
    context.require(Capability.PREFIX_CACHE, what)
    tree = context.engine.prefix_tree
    return tree if tree is not None and tree.enabled else None


def hit_counts(context: ScriptedContext) -> dict[Any, int]:
    """Hit count by node; empty without a tree."""
    tree = _tree(context, "get_all_node_hit_counts()")
    return {} if tree is None else {node.native: node.hit_count for node in tree.nodes()}


def lock_refs(context: ScriptedContext) -> dict[Any, int]:
    """Lock ref by node; empty without a tree."""
    tree = _tree(context, "get_all_node_lock_refs()")
    return {} if tree is None else {node.native: node.lock_ref for node in tree.nodes()}


def engine_stats(context: ScriptedContext) -> dict[str, int]:
    """Pool figures of the moment, in pages and rows."""
    return engine_figures(context.engine)

"""Asking plugins one by one, so that every answer has the distribution that gave it.

A plain pluggy call returns a flat list and drops `None`: who answered what is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pluggy

from scripted_registry._nearest import listed, nearest
from scripted_registry.errors import PluginContractError, ScriptedError

# What a distribution answered to a hook.
Answer: TypeAlias = tuple[str, Any]


@dataclass(frozen=True, kw_only=True)
class PluginInfo:
    """A registered plugin: its name, the distribution it came with, and that one's version."""

    name: str
    distribution: str
    version: str | None = None


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered plugin and where it comes from."""

    plugin: object
    info: PluginInfo


class Asker:
    """Calls hooks plugin by plugin, in the order in which `registered` holds them.

    `registered` belongs to the manager, which calls `forget` whenever it changes it.
    """

    def __init__(
        self,
        *,
        pluggy_manager: pluggy.PluginManager,
        specs: Mapping[str, Callable[..., Any]],
        registered: Mapping[int, Registered],
    ) -> None:
        self._pluggy = pluggy_manager
        self._specs = specs
        self._registered = registered
        self._callers: dict[str, list[tuple[str, pluggy.HookCaller]]] = {}

    def forget(self) -> None:
        """Forget who implements what."""
        self._callers.clear()

    def caller(self, hook: str) -> pluggy.HookCaller:
        """Return the pluggy caller of `hook`; `PluginContractError` when there is no such hook."""
        if hook not in self._specs:
            match = nearest(hook, self._specs)
            raise PluginContractError(
                f"there is no hook {hook!r}",
                hint=f"did you mean {match}?" if match else f"the hooks are {listed(self._specs)}",
            )
        caller: pluggy.HookCaller = getattr(self._pluggy.hook, hook)
        return caller

    def each(self, hook: str) -> list[tuple[str, pluggy.HookCaller]]:
        """Return, for each plugin that implements `hook`, its distribution and a caller of it."""
        if hook not in self._callers:
            implementing = {id(impl.plugin) for impl in self.caller(hook).get_hookimpls()}
            asked = [entry for key, entry in self._registered.items() if key in implementing]
            self._callers[hook] = [
                (
                    entry.info.distribution,
                    self._pluggy.subset_hook_caller(
                        hook, [other.plugin for other in asked if other is not entry]
                    ),
                )
                for entry in asked
            ]
        return self._callers[hook]

    def answers(self, hook: str, **arguments: object) -> list[Answer]:
        """Call `hook` on each plugin; an exception of one becomes a `PluginContractError`."""
        answers: list[Answer] = []
        for distribution, caller in self.each(hook):
            try:
                answers += [(distribution, answer) for answer in caller(**arguments)]
            except ScriptedError as error:
                raise PluginContractError(
                    f"{distribution}: {hook} failed: {error.message}", hint=error.hint
                ) from error
            except Exception as error:
                raise PluginContractError(
                    f"{distribution}: {hook} raised {type(error).__name__}: {error}",
                    hint=f"report this to the authors of {distribution}",
                ) from error
        return answers

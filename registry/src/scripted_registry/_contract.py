"""The contract between the registry and a plugin, checked before the plugin is registered."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Protocol

from scripted_registry._nearest import listed, nearest
from scripted_registry.errors import PluginContractError
from scripted_registry.hookspecs import HOOKSPEC_API_VERSION

API_ATTRIBUTE = "SCRIPTED_API"
_HOOK_PREFIX = "scripted_"


class HookimplOptions(Protocol):
    """What reads pluggy's marker: the options of a marked function, `None` for an unmarked one."""

    def __call__(self, plugin: Any, name: str) -> Mapping[str, object] | None:
        """Return the options of attribute `name` of `plugin`."""


def check_contract(
    plugin: object,
    *,
    distribution: str,
    specs: Mapping[str, Callable[..., Any]],
    options_of: HookimplOptions,
) -> None:
    """Raise `PluginContractError` unless `plugin` keeps the contract.

    `specs` are the hook specifications by name.
    """
    if isinstance(plugin, type):
        raise PluginContractError(
            f"{distribution}: the plugin is the class {plugin.__qualname__}",
            hint="name a module, or an instance of the class, as the entry point",
        )
    _check_api_number(plugin, distribution=distribution)
    for name, function, options in _implementations(plugin, options_of):
        hook = str((options or {}).get("specname") or name)
        if options is None:
            if name in specs:
                raise PluginContractError(
                    f"{distribution}: {name} has the name of a hook and is not marked as one",
                    hint="put @scripted_registry.hookimpl above it, or give it another name",
                )
        elif hook not in specs:
            # pluggy's own way of saying "if this version has that hook"
            if not options["optionalhook"]:
                raise _unknown_hook(distribution, hook, specs)
        else:
            _check_arguments(distribution, hook, function, specs[hook])


def _check_api_number(plugin: object, *, distribution: str) -> None:
    missing = object()
    number = getattr(plugin, API_ATTRIBUTE, missing)
    if number is missing and not isinstance(plugin, ModuleType):
        # an object may leave it to the module that its class is defined in
        number = getattr(sys.modules.get(type(plugin).__module__), API_ATTRIBUTE, missing)
    ours = HOOKSPEC_API_VERSION
    if number is missing:
        raise PluginContractError(
            f"{distribution}: the plugin declares no {API_ATTRIBUTE}; this is hook API {ours}",
            hint=f"write `{API_ATTRIBUTE} = {ours}` into the plugin module",
        )
    if type(number) is not int:
        raise PluginContractError(
            f"{distribution}: {API_ATTRIBUTE} is {number!r}; this is hook API {ours}",
            hint=f"write `{API_ATTRIBUTE} = {ours}` into the plugin module",
        )
    if number != ours:
        behind = distribution if number < ours else "scripted-registry"
        raise PluginContractError(
            f"{distribution} is written for hook API {number}, the installed scripted-registry "
            f"has hook API {ours}",
            hint=f"pip install --upgrade {behind}",
        )


def _implementations(
    plugin: object, options_of: HookimplOptions
) -> Iterator[tuple[str, Callable[..., Any], Mapping[str, object] | None]]:
    for name in dir(plugin):
        options = options_of(plugin, name)
        if options is None and not name.startswith(_HOOK_PREFIX):
            continue
        function = inspect.getattr_static(plugin, name)
        if options is not None or inspect.isroutine(function):
            yield name, getattr(plugin, name), options


def _unknown_hook(
    distribution: str, hook: str, specs: Mapping[str, Callable[..., Any]]
) -> PluginContractError:
    match = nearest(hook, specs)
    return PluginContractError(
        f"{distribution}: {hook} is marked as a hook implementation, and there is no such hook",
        hint=f"did you mean {match}?" if match else f"the hooks are {listed(specs)}",
    )


def _check_arguments(
    distribution: str, hook: str, function: Callable[..., Any], spec: Callable[..., Any]
) -> None:
    offered = tuple(inspect.signature(spec).parameters)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty:
            continue  # pluggy passes only what has no default
        by_position = parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
        )
        if by_position and parameter.name in offered:
            continue
        match = nearest(parameter.name, offered)
        raise PluginContractError(
            f"{distribution}: {hook} takes {parameter}, which the hook does not offer",
            hint=f"did you mean {match}?"
            if match and match != parameter.name
            else f"its arguments are ({', '.join(offered)}), without '*'; take any of them",
        )


def describe(value: object) -> str:
    """Return a short description of a value that a hook should not have returned."""
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{shown} of type {type(value).__name__}"

"""Hook specifications, plugin manager and CI stage model of scripted.

Names are imported when they are first used: `import scripted_registry` itself loads nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scripted_registry._version import __version__

if TYPE_CHECKING:
    from scripted_registry._ask import PluginInfo
    from scripted_registry.errors import (
        ConfigError,
        PluginConflict,
        PluginContractError,
        PluginError,
        PluginImportError,
        PluginNotFound,
        ScriptedError,
    )
    from scripted_registry.hookspecs import HOOKSPEC_API_VERSION, hookimpl
    from scripted_registry.manager import (
        PluginManager,
        get_plugin_manager,
        reset_plugin_manager,
    )
    from scripted_registry.specs import (
        CiRunner,
        CiStage,
        EngineConfig,
        EngineMode,
        EngineSpec,
        ExhausterSpec,
        KitSpec,
        ReporterSpec,
        Violation,
        suite_name,
    )

__all__ = [
    "HOOKSPEC_API_VERSION",
    "CiRunner",
    "CiStage",
    "ConfigError",
    "EngineConfig",
    "EngineMode",
    "EngineSpec",
    "ExhausterSpec",
    "KitSpec",
    "PluginConflict",
    "PluginContractError",
    "PluginError",
    "PluginImportError",
    "PluginInfo",
    "PluginManager",
    "PluginNotFound",
    "ReporterSpec",
    "ScriptedError",
    "Violation",
    "__version__",
    "get_plugin_manager",
    "hookimpl",
    "reset_plugin_manager",
    "suite_name",
]

_HOME = {
    "_ask": ("PluginInfo",),
    "errors": (
        "ConfigError",
        "PluginConflict",
        "PluginContractError",
        "PluginError",
        "PluginImportError",
        "PluginNotFound",
        "ScriptedError",
    ),
    "hookspecs": ("HOOKSPEC_API_VERSION", "hookimpl"),
    "manager": ("PluginManager", "get_plugin_manager", "reset_plugin_manager"),
    "specs": (
        "CiRunner",
        "CiStage",
        "EngineConfig",
        "EngineMode",
        "EngineSpec",
        "ExhausterSpec",
        "KitSpec",
        "ReporterSpec",
        "Violation",
        "suite_name",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = vars(import_module(f"{__name__}.{_MODULE_OF[name]}"))[name]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

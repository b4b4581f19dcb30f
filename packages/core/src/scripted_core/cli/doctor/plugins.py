"""Plugins that can and cannot be loaded, and the engines that they bring."""

from __future__ import annotations

import importlib.metadata

from scripted_registry import EngineSpec, PluginManager, get_plugin_manager

from scripted_core.cli.doctor.findings import Area, Finding, Level
from scripted_core.errors import ScriptedError

_GROUP = "scripted"
_GET_ONE = "pip install 'scripted-core[reference]'"


def look_at_plugins() -> tuple[PluginManager, list[Finding]]:
    """What is registered; where that fails, who is to blame, and a manager with all the others."""
    try:
        manager = get_plugin_manager()
    except ScriptedError as error:
        manager, broken = _one_by_one()
        # What is wrong may also be in the environment, and then no plugin is to blame.
        return manager, broken or [_broken("plugins", error)]
    loaded = sorted({info.distribution for info in manager.plugins()})
    text = f"{len(manager.plugins())} loaded, of {', '.join(loaded)}"
    return manager, [Finding(area=Area.PLUGINS, level=Level.OK, name="plugins", text=text)]


def _one_by_one() -> tuple[PluginManager, list[Finding]]:
    manager = PluginManager(environ={})
    broken = []
    for point in sorted(importlib.metadata.entry_points(group=_GROUP), key=lambda p: p.name):
        distribution = point.dist.name if point.dist is not None else point.module
        try:
            plugin = point.load()
            manager.register(plugin, name=f"{distribution}:{point.name}", distribution=distribution)
        except ScriptedError as error:
            broken.append(_broken(distribution, error))
        except Exception as error:
            broken.append(
                Finding(
                    area=Area.PLUGINS,
                    level=Level.MISSING,
                    name=distribution,
                    text=f"{point.value} does not import: {type(error).__name__}: {error}",
                    remedy=f"reinstall {distribution}, or SCRIPTED_DISABLE_PLUGINS={point.name}",
                )
            )
    return manager, broken


def _broken(name: str, error: ScriptedError) -> Finding:
    return Finding(
        area=Area.PLUGINS, level=Level.MISSING, name=name, text=error.message, remedy=error.hint
    )


def look_at_engines(plugins: PluginManager) -> list[Finding]:
    """Each engine, and what is in the way of using it."""
    try:
        engines = sorted(plugins.engines().values(), key=lambda engine: engine.name)
    except ScriptedError as error:
        return [_of_engine("engines", Level.MISSING, error.message, error.hint)]
    if not engines:
        return [_of_engine("engines", Level.MISSING, "none is installed", _GET_ONE)]
    return [_look_at(engine) for engine in engines]


def _look_at(engine: EngineSpec) -> Finding:
    modes = ", ".join(mode.value.replace("_", "-") for mode in engine.modes)
    try:
        missing = engine.check() if engine.check is not None else None
        remark = engine.remark() if missing is None and engine.remark is not None else None
    except Exception as error:  # somebody else's code, and the report has to go on
        what = f"its check raised {type(error).__name__}: {error}"
        return _of_engine(engine.name, Level.MISSING, what, f"reinstall {engine.distribution}")
    if missing is not None:
        problem, _, remedy = missing.partition(": ")
        return _of_engine(engine.name, Level.MISSING, problem, remedy or None)
    if remark is not None:
        return _of_engine(engine.name, Level.WARN, f"{modes}; {remark}", None)
    return _of_engine(engine.name, Level.OK, f"{modes}; {engine.summary}", None)


def _of_engine(name: str, level: Level, text: str, remedy: str | None) -> Finding:
    return Finding(area=Area.ENGINES, level=level, name=name, text=text, remedy=remedy)

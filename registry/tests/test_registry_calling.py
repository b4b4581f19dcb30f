from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from scripted_registry import (
    EngineConfig,
    EngineMode,
    EngineSpec,
    PluginContractError,
    PluginManager,
    PluginNotFound,
    Violation,
    hookimpl,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def engine(name: str) -> EngineSpec:
    return EngineSpec(name=name, summary="made up", modes=(EngineMode.IN_PROCESS,))


def plugin(**functions: Any) -> ModuleType:
    """A plugin module with the functions marked as hook implementations."""
    module = ModuleType("made_up")
    vars(module)["SCRIPTED_API"] = 1
    for name, function in functions.items():
        vars(module)[name] = hookimpl(function)
    return module


@pytest.fixture
def manager() -> PluginManager:
    return PluginManager(environ={})


def test_has_impls_of_an_unknown_hook(manager: PluginManager) -> None:
    with pytest.raises(PluginContractError, match="no hook 'scripted_on_steps'") as caught:
        manager.has_impls("scripted_on_steps")
    assert caught.value.hint == "did you mean scripted_on_step?"


def test_the_first_plugin_that_builds_an_engine_decides(manager: PluginManager) -> None:
    built = object()
    manager.register(
        plugin(
            scripted_register_engines=lambda: [engine("toy"), engine("idle")],
            scripted_make_engine=lambda config: built if config.engine == "toy" else None,
        ),
        distribution="acme",
    )
    toy = EngineConfig(engine="toy", kwargs={}, mode=EngineMode.IN_PROCESS)
    assert manager.make_engine(toy) is built
    idle = EngineConfig(engine="idle", kwargs={}, mode=EngineMode.IN_PROCESS)
    with pytest.raises(PluginContractError, match="acme registers engine 'idle', and no plugin"):
        manager.make_engine(idle)
    absent = EngineConfig(engine="absent", kwargs={}, mode=EngineMode.IN_PROCESS)
    with pytest.raises(PluginNotFound, match="no engine is called 'absent'"):
        manager.make_engine(absent)


def test_violations_of_all_plugins_are_gathered(manager: PluginManager) -> None:
    audit = SimpleNamespace(is_idle=True)

    def check(audit: Any) -> list[Violation]:
        return [Violation(code="mine", message="m", subject="page 1")]

    assert manager.check_invariants(audit, step=9) == []
    manager.register(plugin(scripted_check_invariants=check), name="a")
    manager.register(plugin(scripted_check_invariants=lambda audit: []), name="b")
    manager.register(plugin(scripted_check_invariants=check), name="c")
    assert [violation.step for violation in manager.check_invariants(audit, step=9)] == [9, 9]


def test_a_wrong_violation_names_the_distribution(manager: PluginManager) -> None:
    manager.register(plugin(scripted_check_invariants=lambda audit: []), name="good")
    manager.register(plugin(scripted_check_invariants=lambda audit: ["leak"]), distribution="acme")
    with pytest.raises(PluginContractError, match=r"acme: scripted_check_invariants .*'leak'"):
        manager.check_invariants(SimpleNamespace(), step=1)


def test_report_sections(manager: PluginManager) -> None:
    run = SimpleNamespace(script="a::b", session_id="s", backend="toy", seed=0)
    manager.register(plugin(scripted_report_sections=lambda run: [("head", run.script)]), name="a")
    assert manager.report_sections(run) == [("head", "a::b")]
    manager.register(
        plugin(scripted_report_sections=lambda run: [("head", 3)]), distribution="acme"
    )
    with pytest.raises(PluginContractError, match="acme: scripted_report_sections"):
        manager.report_sections(run)

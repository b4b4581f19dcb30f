from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from scripted_registry import (
    CiRunner,
    CiStage,
    EngineMode,
    EngineSpec,
    ExhausterSpec,
    KitSpec,
    PluginConflict,
    PluginContractError,
    PluginManager,
    PluginNotFound,
    ReporterSpec,
    hookimpl,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def engine(name: str, **more: Any) -> EngineSpec:
    return EngineSpec(name=name, summary="made up", modes=(EngineMode.IN_PROCESS,), **more)


def plugin(api: object = 1, **functions: Any) -> ModuleType:
    """A plugin module with the functions marked as hook implementations."""
    module = ModuleType("made_up")
    vars(module)["SCRIPTED_API"] = api
    for name, function in functions.items():
        vars(module)[name] = hookimpl(function)
    return module


def returning(hook: str, answer: object) -> ModuleType:
    return plugin(**{hook: lambda: answer})


@pytest.fixture
def manager() -> PluginManager:
    return PluginManager(environ={})


def test_the_built_ins_come_through_the_hooks(manager: PluginManager) -> None:
    assert list(manager.ci_runners()) == ["cpu", "1-gpu-small", "1-gpu-h100", "4-gpu-h100"]
    assert list(manager.ci_stages()) == ["unit-test-cpu"]
    assert manager.ci_stages()["unit-test-cpu"].distribution == "scripted-registry"
    assert manager.distributions() == {"scripted-registry": "0.1.0"}


def test_each_kind_is_collected_with_its_distribution(manager: PluginManager) -> None:
    manager.register(
        plugin(
            scripted_register_engines=lambda: [engine("toy", distribution="a lie")],
            scripted_register_exhausters=lambda: [
                ExhausterSpec(name="kv", summary="", factory=print, capability="KV")
            ],
            scripted_register_kits=lambda: (KitSpec(name="sanity", summary="", run=print),),
            scripted_register_reporters=lambda: [
                ReporterSpec(name="live", summary="", factory=print)
            ],
            scripted_register_ci_runners=lambda: [CiRunner(name="npu", summary="", labels=("n",))],
            scripted_register_ci_stages=lambda: [
                CiStage(name="base", runner=runner, summary="", command="true")
                for runner in ("cpu", "npu")
            ],
        ),
        distribution="acme-plugin",
        version="2.1",
    )
    assert manager.engine("toy") == engine("toy", distribution="acme-plugin")
    assert manager.exhauster("kv").distribution == "acme-plugin"
    assert manager.exhauster("kv").capability == "KV"
    assert manager.kits()["sanity"].distribution == "acme-plugin"
    assert manager.reporters()["live"].distribution == "acme-plugin"
    assert manager.ci_runners()["npu"].distribution == "acme-plugin"
    assert list(manager.ci_stages()) == ["unit-test-cpu", "base-test-cpu", "base-test-npu"]
    assert manager.distributions()["acme-plugin"] == "2.1"
    assert [info.name for info in manager.plugins()] == ["builtin", "made_up"]


def test_a_hook_is_asked_once_and_again_after_a_change(manager: PluginManager) -> None:
    calls: list[str] = []

    def answer() -> list[EngineSpec]:
        calls.append("asked")
        return [engine("toy")]

    manager.register(plugin(scripted_register_engines=answer))
    assert dict(manager.engines()) == dict(manager.engines())
    assert calls == ["asked"]
    second = returning("scripted_register_engines", [engine("other")])
    manager.register(second, name="second")
    assert set(manager.engines()) == {"toy", "other"}
    assert calls == ["asked", "asked"]
    manager.unregister(second)
    assert set(manager.engines()) == {"toy"}


def test_nothing_is_a_legal_answer(manager: PluginManager) -> None:
    manager.register(returning("scripted_register_engines", None))
    assert manager.engines() == {}


# Looking up


def test_an_unknown_engine_is_named_with_what_there_is(manager: PluginManager) -> None:
    manager.register(returning("scripted_register_engines", [engine("toy"), engine("reference")]))
    with pytest.raises(PluginNotFound) as caught:
        manager.engine("refrence")
    assert caught.value.message == "no engine is called 'refrence'; installed: reference, toy"
    assert caught.value.hint == "did you mean 'reference'?"


def test_a_published_engine_that_is_missing_says_what_to_install(manager: PluginManager) -> None:
    with pytest.raises(PluginNotFound, match="installed: none") as caught:
        manager.engine("sglang")
    assert caught.value.hint == "pip install 'scripted-core[sglang]'"


def test_any_other_missing_thing_says_so_too(manager: PluginManager) -> None:
    with pytest.raises(PluginNotFound, match="no exhauster is called 'kv'") as caught:
        manager.exhauster("kv")
    assert caught.value.hint == "pip install the distribution that provides the exhauster"


# Conflicts


def test_two_engines_of_one_name_name_both_distributions(manager: PluginManager) -> None:
    for name in ("first", "second"):
        manager.register(
            returning("scripted_register_engines", [engine("toy")]),
            name=name,
            distribution=f"{name}-dist",
        )
    with pytest.raises(
        PluginConflict, match="engine 'toy' is registered by first-dist and by second-dist"
    ) as caught:
        manager.engines()
    assert "SCRIPTED_DISABLE_PLUGINS=second-dist" in (caught.value.hint or "")


def test_one_distribution_that_registers_a_name_twice(manager: PluginManager) -> None:
    manager.register(
        returning("scripted_register_engines", [engine("toy"), engine("toy")]),
        distribution="acme",
    )
    with pytest.raises(PluginConflict, match="acme registers engine 'toy' twice"):
        manager.engines()


def test_one_name_may_stand_for_things_of_two_kinds(manager: PluginManager) -> None:
    manager.register(
        plugin(
            scripted_register_engines=lambda: [engine("toy")],
            scripted_register_kits=lambda: [KitSpec(name="toy", summary="", run=print)],
        )
    )
    assert set(manager.engines()) == set(manager.kits()) == {"toy"}


def test_a_plugin_is_registered_once(manager: PluginManager) -> None:
    module = plugin()
    manager.register(module, name="one", distribution="d1")
    with pytest.raises(PluginConflict, match="registered already, as 'one' of d1"):
        manager.register(module, name="two", distribution="d2")
    with pytest.raises(PluginConflict, match="registered already, as 'one' of d1"):
        manager.register(plugin(), name="one", distribution="d2")


def test_unregistering_a_stranger_is_an_error(manager: PluginManager) -> None:
    with pytest.raises(PluginContractError, match="made_up is not registered"):
        manager.unregister(plugin())


# The contract


@pytest.mark.parametrize(
    ("number", "upgrade"), [(0, "acme"), (2, "scripted-registry"), (99, "scripted-registry")]
)
def test_a_different_api_number(manager: PluginManager, number: int, upgrade: str) -> None:
    with pytest.raises(
        PluginContractError,
        match=f"acme is written for hook API {number}, .* has hook API 1",
    ) as caught:
        manager.register(plugin(api=number), distribution="acme")
    assert caught.value.hint == f"pip install --upgrade {upgrade}"


@pytest.mark.parametrize("number", ["1", True, None, 1.0])
def test_an_api_number_that_is_none(manager: PluginManager, number: object) -> None:
    with pytest.raises(PluginContractError, match="acme: SCRIPTED_API is"):
        manager.register(plugin(api=number), distribution="acme")


def test_a_missing_api_number(manager: PluginManager) -> None:
    module = ModuleType("made_up")
    with pytest.raises(PluginContractError, match="acme: the plugin declares no SCRIPTED_API"):
        manager.register(module, distribution="acme")
    with pytest.raises(PluginContractError, match="declares no SCRIPTED_API"):
        manager.register(SimpleNamespace(), distribution="acme")


def test_an_unknown_hook_names_the_nearest(manager: PluginManager) -> None:
    with pytest.raises(PluginContractError, match="acme: scripted_register_engine is") as caught:
        manager.register(plugin(scripted_register_engine=lambda: None), distribution="acme")
    assert caught.value.hint == "did you mean scripted_register_engines?"
    assert manager.plugins()[-1].name == "builtin"


def test_a_hook_that_another_version_has_may_be_optional(manager: PluginManager) -> None:
    module = plugin()
    vars(module)["scripted_on_tea"] = hookimpl(optionalhook=True)(lambda: None)
    manager.register(module)
    assert [info.name for info in manager.plugins()] == ["builtin", "made_up"]


def test_an_unmarked_function_with_the_name_of_a_hook(manager: PluginManager) -> None:
    module = plugin()
    vars(module)["scripted_on_step"] = lambda step: None
    vars(module)["scripted_helper"] = lambda: None  # no hook: its own affair
    with pytest.raises(PluginContractError, match=r"acme: scripted_on_step .* not marked"):
        manager.register(module, distribution="acme")


@pytest.mark.parametrize(
    ("function", "parameter", "hint"),
    [
        (lambda steps: None, "steps", "did you mean step?"),
        (lambda step, batch: None, "batch", "its arguments are"),
        (lambda *, step: None, "step", r"without '\*'"),
        (lambda *rest: None, r"\*rest", "its arguments are"),
    ],
)
def test_wrong_arguments(manager: PluginManager, function: Any, parameter: str, hint: str) -> None:
    with pytest.raises(
        PluginContractError, match=f"acme: scripted_on_step takes {parameter}, .*\nhint: .*{hint}"
    ):
        manager.register(plugin(scripted_on_step=function), distribution="acme")


def test_fewer_arguments_and_defaults_are_legal(manager: PluginManager) -> None:
    seen: list[object] = []
    manager.register(plugin(scripted_on_step=lambda: seen.append("none")), name="a")
    manager.register(plugin(scripted_on_step=lambda step, extra=7: seen.append(step)), name="b")
    manager.hook.scripted_on_step(step=1)
    assert sorted(map(str, seen)) == ["1", "none"]


def test_what_only_pluggy_sees_is_a_contract_error_too(manager: PluginManager) -> None:
    module = plugin(scripted_on_batch=lambda record: None)
    vars(module)["scripted_on_step"] = hookimpl(wrapper=True)(lambda step: None)
    with pytest.raises(PluginContractError, match="acme: "):
        manager.register(module, distribution="acme")
    assert not manager.has_impls("scripted_on_batch")


def test_a_class_is_no_plugin_and_its_instance_is_one(manager: PluginManager) -> None:
    class Plugin:
        SCRIPTED_API = 1

        @hookimpl
        def scripted_register_engines(self) -> list[EngineSpec]:
            return [engine("toy")]

    with pytest.raises(PluginContractError, match=r"acme: the plugin is the class .*Plugin"):
        manager.register(Plugin, distribution="acme")
    manager.register(Plugin(), distribution="acme")
    assert manager.engine("toy").distribution == "acme"


SCRIPTED_API = 1  # an object may leave it to the module of its class


def test_an_object_takes_the_number_of_its_module(manager: PluginManager) -> None:
    class Plugin:
        @hookimpl
        def scripted_register_engines(self) -> list[EngineSpec]:
            return [engine("toy")]

    manager.register(Plugin(), distribution="acme")
    assert set(manager.engines()) == {"toy"}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (engine("toy"), "returned EngineSpec.* of type EngineSpec"),
        ("toy", "returned 'toy' of type str"),
        (["toy"], "returned a list with 'toy' of type str"),
        ([None], "returned a list with None"),
        (
            [KitSpec(name="k", summary="", run=print)],
            r"returned a list with KitSpec\(.* of type KitSpec",
        ),
        ({"toy": engine("toy")}, r"returned \{.* of type dict"),
    ],
)
def test_a_wrong_answer(manager: PluginManager, answer: object, said: str) -> None:
    manager.register(returning("scripted_register_engines", answer), distribution="acme")
    with pytest.raises(
        PluginContractError, match=f"acme: scripted_register_engines {said}"
    ) as caught:
        manager.engines()
    assert caught.value.hint == "return a list of EngineSpec"


def test_a_hook_that_raises_names_the_distribution(manager: PluginManager) -> None:
    def broken() -> list[EngineSpec]:
        raise ValueError("no idea")

    manager.register(plugin(scripted_register_engines=broken), distribution="acme")
    with pytest.raises(PluginContractError, match=r"acme: .* raised ValueError: no idea") as caught:
        manager.engines()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_spec_that_cannot_be_names_the_distribution_and_keeps_the_hint(
    manager: PluginManager,
) -> None:
    manager.register(
        plugin(scripted_register_engines=lambda: [engine("two words")]), distribution="acme"
    )
    with pytest.raises(
        PluginContractError, match=r"acme: .*'two words' cannot be the name of an engine"
    ) as caught:
        manager.engines()
    assert "beginning with a letter" in (caught.value.hint or "")


def test_a_stage_on_a_runner_that_nobody_registers(manager: PluginManager) -> None:
    stage = CiStage(name="base", runner="1-gpu-h1000", summary="", command="true")
    manager.register(returning("scripted_register_ci_stages", [stage]), distribution="acme")
    with pytest.raises(
        PluginContractError, match="acme: CI stage 'base' is for runner '1-gpu-h1000'"
    ) as caught:
        manager.ci_stages()
    assert caught.value.hint == "did you mean '1-gpu-h100'?"

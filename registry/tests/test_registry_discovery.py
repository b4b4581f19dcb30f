from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
from scripted_registry import (
    ConfigError,
    PluginConflict,
    PluginContractError,
    PluginImportError,
    PluginManager,
    PluginNotFound,
    get_plugin_manager,
    reset_plugin_manager,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

Add = Callable[..., None]
Source = Callable[[str], str]


def loaded(**environ: str) -> PluginManager:
    manager = PluginManager(environ=environ)
    manager.load_entry_points()
    return manager


@pytest.fixture
def two(add_distribution: Add, engine_plugin: Source) -> None:
    add_distribution("Acme_Engines", entry_points={"acme": "acme_a"}, acme_a=engine_plugin("a"))
    add_distribution("bolt", version="2.5", entry_points={"b": "bolt_b"}, bolt_b=engine_plugin("b"))


@pytest.mark.usefixtures("two")
def test_installed_plugins_are_found_with_their_distribution() -> None:
    manager = loaded()
    assert manager.engine("a").distribution == "Acme_Engines"
    assert manager.engine("b").distribution == "bolt"
    assert manager.distributions() == {
        "scripted-registry": "0.1.0",
        "Acme_Engines": "1.0",
        "bolt": "2.5",
    }


@pytest.mark.usefixtures("two")
def test_nothing_is_imported_before_loading() -> None:
    manager = PluginManager(environ={})
    assert "acme_a" not in sys.modules
    assert manager.engines() == {}
    manager.load_entry_points()
    manager.load_entry_points()
    assert set(manager.engines()) == {"a", "b"}


def test_an_entry_point_may_name_an_object(add_distribution: Add) -> None:
    source = """
        from scripted_registry import EngineMode, EngineSpec, hookimpl

        SCRIPTED_API = 1

        class Plugin:
            @hookimpl
            def scripted_register_engines(self):
                return [EngineSpec(name="obj", summary="", modes=(EngineMode.SERVER,))]

        plugin = Plugin()
    """
    add_distribution("acme", entry_points={"x": "acme_obj:plugin"}, acme_obj=source)
    assert set(loaded().engines()) == {"obj"}


def test_a_plugin_that_fails_to_import(add_distribution: Add) -> None:
    add_distribution("acme", entry_points={"x": "acme_bad"}, acme_bad="import no_such_module_xyz")
    with pytest.raises(PluginImportError, match=r"acme \(entry point 'x' = 'acme_bad'\)") as caught:
        loaded()
    assert "ModuleNotFoundError: No module named 'no_such_module_xyz'" in caught.value.message
    assert "SCRIPTED_DISABLE_PLUGINS=x" in (caught.value.hint or "")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    assert loaded(SCRIPTED_DISABLE_PLUGINS="x").engines() == {}


def test_an_object_that_is_not_there(add_distribution: Add) -> None:
    add_distribution("acme", entry_points={"x": "acme_no:plugin"}, acme_no="SCRIPTED_API = 1")
    with pytest.raises(PluginImportError, match="AttributeError"):
        loaded()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("SCRIPTED_API = 2", "acme is written for hook API 2"),
        ("", "acme: the plugin declares no SCRIPTED_API"),
    ],
)
def test_a_plugin_of_another_api(add_distribution: Add, source: str, said: str) -> None:
    add_distribution("acme", entry_points={"x": "acme_api"}, acme_api=source)
    with pytest.raises(PluginContractError, match=said):
        loaded()


def test_two_distributions_with_one_engine_name(
    add_distribution: Add, engine_plugin: Source
) -> None:
    add_distribution("acme", entry_points={"x": "acme_a"}, acme_a=engine_plugin("same"))
    add_distribution("bolt", entry_points={"x": "bolt_b"}, bolt_b=engine_plugin("same"))
    with pytest.raises(PluginConflict, match="'same' is registered by acme and by bolt"):
        loaded().engines()
    assert loaded(SCRIPTED_DISABLE_PLUGINS="bolt").engine("same").distribution == "acme"


# SCRIPTED_DISABLE_PLUGINS


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("disabled", "left"),
    [
        ("acme", {"b"}),
        ("Acme_Engines", {"b"}),
        ("acme-engines", {"b"}),
        (" acme , bolt ", set()),
        ("all", set()),
        ("", {"a", "b"}),
        (",", {"a", "b"}),
    ],
)
def test_disabled_plugins_stay_out(disabled: str, left: set[str]) -> None:
    manager = loaded(SCRIPTED_DISABLE_PLUGINS=disabled)
    assert set(manager.engines()) == left
    assert "cpu" in manager.ci_runners()


@pytest.mark.usefixtures("two")
def test_a_disabled_plugin_is_not_imported() -> None:
    loaded(SCRIPTED_DISABLE_PLUGINS="acme")
    assert "acme_a" not in sys.modules
    assert "bolt_b" in sys.modules


@pytest.mark.usefixtures("two")
def test_a_misspelt_disabled_name_is_an_error() -> None:
    with pytest.raises(PluginNotFound, match="SCRIPTED_DISABLE_PLUGINS names 'acmee'") as caught:
        loaded(SCRIPTED_DISABLE_PLUGINS="bolt,acmee")
    assert caught.value.hint == "did you mean 'acme'?"
    with pytest.raises(PluginNotFound) as caught:
        loaded(SCRIPTED_DISABLE_PLUGINS="all,zzzzzz")
    assert caught.value.hint == "take it out of SCRIPTED_DISABLE_PLUGINS"


@pytest.mark.usefixtures("two")
def test_a_missing_engine_mentions_what_was_left_out() -> None:
    with pytest.raises(PluginNotFound) as caught:
        loaded(SCRIPTED_DISABLE_PLUGINS="acme").engine("a")
    assert "SCRIPTED_DISABLE_PLUGINS leaves out: acme" in (caught.value.hint or "")


# SCRIPTED_PLUGINS


def test_modules_named_by_hand_are_registered(add_distribution: Add, engine_plugin: Source) -> None:
    add_distribution("no-entry", byhand_one=engine_plugin("one"), byhand_two=engine_plugin("two"))
    manager = loaded(SCRIPTED_PLUGINS="byhand_one, byhand_two,byhand_one")
    assert manager.engine("one").distribution == "byhand_one"
    assert set(manager.engines()) == {"one", "two"}


@pytest.mark.usefixtures("two")
def test_naming_an_installed_plugin_by_hand_changes_nothing() -> None:
    assert set(loaded(SCRIPTED_PLUGINS="acme_a").engines()) == {"a", "b"}


@pytest.mark.usefixtures("two")
def test_all_but_one_can_be_left_out() -> None:
    manager = loaded(SCRIPTED_DISABLE_PLUGINS="all", SCRIPTED_PLUGINS="bolt_b")
    assert set(manager.engines()) == {"b"}
    assert manager.engine("b").distribution == "bolt"


def test_a_bad_module_named_by_hand_is_an_error(add_distribution: Add) -> None:
    add_distribution("no-entry", byhand_bad="raise RuntimeError('broken on purpose')")
    for module, said in (
        ("byhand_bad", "RuntimeError: broken on purpose"),
        ("byhand_absent", "ModuleNotFoundError"),
    ):
        with pytest.raises(
            PluginImportError, match=rf"'{module}' named by SCRIPTED_PLUGINS.*{said}"
        ):
            loaded(SCRIPTED_PLUGINS=module)


@pytest.mark.parametrize("value", ["not a module", "a b:c", "mod:"])
def test_a_name_that_cannot_be_a_module(add_distribution: Add, value: str) -> None:
    with pytest.raises(PluginImportError, match=re.escape(repr(value))):
        loaded(SCRIPTED_PLUGINS=value)


# SCRIPTED_TRACE_PLUGINS


@pytest.mark.usefixtures("two")
def test_the_trace_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    manager = loaded(SCRIPTED_TRACE_PLUGINS="1", SCRIPTED_DISABLE_PLUGINS="acme")
    manager.engines()
    manager.hook.scripted_on_step(step=12345)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("scripted plugins: ") for line in lines)
    assert any("skipped Acme_Engines (entry point 'acme'" in line for line in lines)
    assert any("discovered bolt (entry point 'b'" in line for line in lines)
    assert "scripted plugins: loaded bolt:b of bolt 2.5" in lines
    assert any("scripted_register_engines [hook]" in line for line in lines)
    assert any("12345" in line for line in lines)


@pytest.mark.usefixtures("two")
def test_no_trace_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    loaded(SCRIPTED_TRACE_PLUGINS="0").engines()
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ConfigError, match="SCRIPTED_TRACE_PLUGINS is 'maybe'"):
        loaded(SCRIPTED_TRACE_PLUGINS="maybe")


# The manager of the process


@pytest.mark.usefixtures("two")
def test_the_process_has_one_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPTED_DISABLE_PLUGINS", "bolt")
    manager = get_plugin_manager()
    assert set(manager.engines()) == {"a"}
    assert get_plugin_manager() is manager
    reset_plugin_manager()
    monkeypatch.delenv("SCRIPTED_DISABLE_PLUGINS")
    assert set(get_plugin_manager().engines()) == {"a", "b"}


def test_a_failed_load_is_not_kept(add_distribution: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution("acme", entry_points={"x": "acme_bad"}, acme_bad="raise RuntimeError")
    for _ in range(2):
        with pytest.raises(PluginImportError):
            get_plugin_manager()
    monkeypatch.setenv("SCRIPTED_DISABLE_PLUGINS", "acme")
    assert get_plugin_manager().engines() == {}


# Imports

_LIGHT = """
import sys
before = set(sys.modules)
import scripted_registry
from scripted_registry.ci import register_cpu_ci
register_cpu_ci(1, stage="a", runner_config="b")
loaded = set(sys.modules) - before
heavy = loaded & {"pluggy", "inspect", "ast", "difflib", "importlib.metadata", "typer", "rich"}
print(sorted(heavy))
scripted_registry.PluginManager(environ={})
print(sorted(set(sys.modules) & {"typer", "rich", "difflib", "torch"}))
print(all(hasattr(scripted_registry, name) for name in scripted_registry.__all__))
lazy = {*scripted_registry._MODULE_OF, "__version__"}
print(lazy == set(scripted_registry.__all__))
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[]", "True", "True"]


def test_an_unknown_name_of_the_package() -> None:
    import scripted_registry

    with pytest.raises(AttributeError, match="no attribute 'Plugin'"):
        scripted_registry.Plugin  # noqa: B018
    assert "PluginManager" in dir(scripted_registry)

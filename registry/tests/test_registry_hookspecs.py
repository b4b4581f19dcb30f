from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pluggy
import pytest
import scripted_registry
from scripted_registry import PluginManager, hookspecs, pytest_hookspecs
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

# The normative list: every hook with its arguments and whether the first result decides.
HOOKS = {
    "scripted_register_engines": ([], False),
    "scripted_register_exhausters": ([], False),
    "scripted_register_kits": ([], False),
    "scripted_register_reporters": ([], False),
    "scripted_register_ci_stages": ([], False),
    "scripted_register_ci_runners": ([], False),
    "scripted_register_commands": (["app"], False),
    "scripted_make_engine": (["config"], True),
    "scripted_make_transport": (["config"], True),
    "scripted_engine_before_start": (["config"], False),
    "scripted_engine_built": (["port"], False),
    "scripted_engine_started": (["config", "ready"], False),
    "scripted_engine_died": (["config", "error"], False),
    "scripted_engine_stopped": (["config"], False),
    "scripted_script_before_run": (["run"], False),
    "scripted_script_after_run": (["run"], False),
    "scripted_script_on_error": (["run", "error"], False),
    "scripted_on_step": (["step"], False),
    "scripted_on_batch": (["record"], False),
    "scripted_on_reset": (["context"], False),
    "scripted_check_invariants": (["audit"], False),
    "scripted_context_tool": (["name", "context"], True),
    "scripted_trace_events": (["run"], False),
    "scripted_report_sections": (["run"], False),
}
PYTEST_HOOKS = {
    "pytest_scripted_configure_engine": (["config", "engine_config"], False),
    "pytest_scripted_skip_reason": (["item", "capabilities"], True),
    "pytest_scripted_engine_group": (["item"], True),
}


def described(project: str, module: ModuleType) -> dict[str, tuple[list[str], bool]]:
    manager = pluggy.PluginManager(project)
    manager.add_hookspecs(module)
    found = {}
    for name, caller in vars(manager.hook).items():
        assert caller.spec is not None
        found[name] = (list(caller.spec.argnames), bool(caller.spec.opts["firstresult"]))
    return found


def test_the_hooks_are_those_of_the_design() -> None:
    assert described("scripted", hookspecs) == HOOKS
    assert described("pytest", pytest_hookspecs) == PYTEST_HOOKS


@pytest.mark.parametrize("name", [*HOOKS, *PYTEST_HOOKS])
def test_each_hook_is_typed_and_says_where_it_is_called(name: str) -> None:
    module = hookspecs if name in HOOKS else pytest_hookspecs
    function = vars(module)[name]
    assert "return" in inspect.get_annotations(function)
    text = " ".join((function.__doc__ or "").split())
    assert "Called" in text
    assert any(side in text for side in ("test side", "engine side", "command line"))


def test_hookimpl_marks_for_the_manager() -> None:
    steps: list[int] = []

    class Plugin:
        SCRIPTED_API = 1

        @scripted_registry.hookimpl
        def scripted_on_step(self, step: int) -> None:
            steps.append(step)

    manager = PluginManager(environ={})
    assert not manager.has_impls("scripted_on_step")
    manager.register(Plugin())
    assert manager.has_impls("scripted_on_step")
    manager.hook.scripted_on_step(step=4)
    assert steps == [4]


def test_payload_types_reach_no_higher_package() -> None:
    """Not even under TYPE_CHECKING: the registry is at the bottom of the import graph."""
    root = Path(scripted_registry.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            else:
                continue
            for name in names:
                top = name.partition(".")[0]
                assert top == "scripted_registry" or not top.startswith("scripted"), file
                if top in ("typer", "rich"):
                    assert file.parent.name == "cli", file

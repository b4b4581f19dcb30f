"""What the README shows and lists is so."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import scripted_registry
from scripted_registry import PluginManager, ScriptedError, _settings
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.scan import scan_source

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    (found,) = [
        text
        for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        if containing in text
    ]
    return str(found)


def test_the_worked_plugin_works(add_distribution: Callable[..., None]) -> None:
    project = tomllib.loads(block("toml", "[project]"))["project"]
    ((point, module),) = project["entry-points"]["scripted"].items()
    flat = module.replace(".", "_")
    add_distribution(
        project["name"],
        version=project["version"],
        entry_points={point: flat},
        **{flat: block("python", "SCRIPTED_API")},
    )
    manager = PluginManager(environ={})
    manager.load_entry_points()
    spec = manager.engine("acme")
    assert spec.distribution == "acme-scripted"
    assert spec.check is not None
    assert "pip install acme-engine" in (spec.check() or "")
    assert "acme-test-1-gpu-small" in manager.ci_stages()

    class Audit:
        pools = ()
        rows = None
        lock_refs = (1,)
        held_locks = 1
        is_idle = True

    (violation,) = manager.check_invariants(Audit(), step=5)
    assert (violation.code, violation.step) == ("acme-lock-kept", 5)

    registrations = scan_source(block("python", "register_cuda_ci"), path=Path("README.md"))
    assert {registration.suite for registration in registrations} <= set(manager.ci_stages())


def all_errors() -> set[type[ScriptedError]]:
    for module in pkgutil.walk_packages(scripted_registry.__path__, "scripted_registry."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {ScriptedError}
    while True:
        more = {sub for cls in found for sub in cls.__subclasses__()} - found
        if not more:
            return {cls for cls in found if cls.__module__.startswith("scripted_registry.")}
        found |= more


def test_every_error_is_listed_with_its_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `([a-z-]+)` \|", README, re.MULTILINE))
    assert rows == {cls.__name__: cls.code for cls in all_errors()}


@pytest.mark.parametrize("variable", [_settings.DISABLE, _settings.EXTRA, _settings.TRACE], ids=str)
def test_every_variable_is_listed(variable: str) -> None:
    assert f"| `{variable}` |" in README

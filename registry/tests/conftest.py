from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from scripted_registry import reset_plugin_manager

AddDistribution = Callable[..., None]


@pytest.fixture
def add_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddDistribution]:
    """Install made-up distributions, as a real dist-info folder and modules; hide the real ones."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(
        sys, "path", [str(site), *(entry for entry in sys.path if "site-packages" not in entry)]
    )
    monkeypatch.delenv("SCRIPTED_DISABLE_PLUGINS", raising=False)
    before = set(sys.modules)

    def add(
        name: str,
        *,
        entry_points: Mapping[str, str] | None = None,
        version: str = "1.0",
        **modules: str,
    ) -> None:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{point} = {value}" for point, value in (entry_points or {}).items()]
        (info / "entry_points.txt").write_text("\n".join(["[scripted]", *lines, ""]))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(dedent(source))
        importlib.invalidate_caches()

    reset_plugin_manager()
    yield add
    reset_plugin_manager()
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(site)):
            del sys.modules[module]


ENGINE_PLUGIN = """
    from scripted_registry import EngineMode, EngineSpec, hookimpl

    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_engines():
        return [EngineSpec(name="{name}", summary="made up", modes=(EngineMode.IN_PROCESS,))]
"""


@pytest.fixture
def engine_plugin() -> Callable[[str], str]:
    """The source of a plugin module that registers one engine."""
    return lambda name: dedent(ENGINE_PLUGIN).format(name=name)


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    """A small repository with stages of its own: `Repository` of ci_repository.py beside this."""
    name = "scripted_ci_repository"
    if name not in sys.modules:
        where = Path(__file__).with_name("ci_repository.py")
        spec = importlib.util.spec_from_file_location(name, where)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    root = tmp_path / "repository"
    root.mkdir()
    return sys.modules[name].Repository(root)

"""The import table of this repository, as a test: who may import whom, and what else.

Imports point down only and nothing imports sideways. What a package may import of ours, it may also
import of what that package may. Imports under ``TYPE_CHECKING`` and inside functions count.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

ROOT = Path(__file__).parents[3]
STDLIB = frozenset(sys.stdlib_module_names) | {"__future__"}


@dataclass(frozen=True)
class Row:
    """One package: ``ours`` lists import names of siblings, ``others`` those of third parties.

    ``edge`` maps modules at the command line's edge (path prefixes below the package) to what only
    they may import.
    """

    module: str
    ours: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    edge: tuple[tuple[str, tuple[str, ...]], ...] = ()


TABLE = {
    "registry": Row(
        "scripted_registry",
        others=("pluggy",),
        edge=(
            ("ci/cli/", ("typer", "rich")),
            ("ci/pipelines.py", ("yaml",)),
            ("__main__.py", ("typer", "rich")),
        ),
    ),
    # pytest's own assertion rewriter is only reachable as _pytest.
    "packages/core": Row(
        "scripted_core",
        ours=("scripted_registry",),
        others=("msgspec", "zmq", "structlog", "pytest", "_pytest", "pluggy"),
        edge=(
            ("cli/", ("typer", "rich", "packaging")),
            ("pytest_plugin/_known_defects.py", ("packaging",)),
            ("__main__.py", ("typer", "rich")),
        ),
    ),
    # The audit is checked vectorized, hence numpy; msgspec, zmq and structlog come with the wire
    # that it shares with core.
    "packages/hook": Row(
        "scripted_hook",
        ours=("scripted_core",),
        others=("aiohttp", "msgspec", "zmq", "structlog", "numpy"),
    ),
    "packages/exhausters": Row("scripted_exhausters", ours=("scripted_core",)),
    "packages/chunked": Row("scripted_chunked", ours=("scripted_core",)),
    # Hypothesis shrinks; rich and typer are the command's. Faults are the reference engine's.
    "packages/explore": Row(
        "scripted_explore",
        ours=("scripted_core",),
        others=("hypothesis", "msgspec", "pytest", "structlog"),
        edge=(
            ("cli.py", ("typer",)),
            ("command.py", ("rich",)),
            ("live.py", ("rich",)),
            ("executors.py", ("ray",)),
            ("fault_table.py", ("typer", "scripted_reference")),
        ),
    ),
    "packages/canary": Row(
        "scripted_canary", ours=("scripted_core",), others=("torch", "numpy", "triton")
    ),
    # Data: checkpoints that any engine can load. What trained them needs the rest.
    "packages/models": Row("scripted_models", others=("torch", "safetensors", "tokenizers")),
    # What kits share: they do not import one another. The command is its edge, as in core.
    "packages/kits/client": Row(
        "scripted_kit_client",
        ours=("scripted_core",),
        others=("aiohttp", "rich", "pytest"),
        edge=(("cli.py", ("typer",)),),
    ),
    # The hash model is numpy alone: torch's overhead per call decides at its size.
    "packages/engines/reference": Row(
        "scripted_reference",
        ours=("scripted_hook", "scripted_models"),
        others=(
            "aiohttp",
            "msgspec",
            "numpy",
            "prometheus_client",
            "safetensors",
            "structlog",
            "tokenizers",
            "torch",
            "zmq",
        ),
        edge=(("faults/", ("typer", "rich", "pytest")),),
    ),
    # The engine itself is the user's own install, and brings its own dependencies.
    "packages/engines/sglang": Row(
        "scripted_sglang",
        ours=("scripted_hook", "scripted_models"),
        others=(
            "sglang",
            "torch",
            "numpy",
            "packaging",
            "zmq",
            "msgspec",
            "structlog",
            "transformers",
            "tokenizers",
            "safetensors",
            "torchvision",
            "triton",
        ),
    ),
    # An adapter is written by whoever wants one.
    "packages/backends/single": Row(
        "scripted_backend_single",
        ours=("scripted_core", "scripted_chunked"),
        others=("pytest",),
        edge=(("lora.py", ("numpy", "safetensors")),),
    ),
    "packages/engines/vllm": Row(
        "scripted_vllm", ours=("scripted_hook",), others=("vllm", "torch", "numpy", "zmq")
    ),
}
FAMILIES = {
    "packages/kits": Row(
        "scripted_kit_",
        ours=("scripted_core", "scripted_kit_client", "scripted_models"),
        others=("aiohttp", "prometheus_client", "rich"),
    ),
    "packages/backends": Row(
        "scripted_backend_", ours=("scripted_core", "scripted_chunked"), others=("pytest",)
    ),
}


def folders() -> Iterator[str]:
    """Every folder of the repository that is a package."""
    for path in sorted((ROOT / "packages").rglob("pyproject.toml")):
        if "node_modules" not in path.parts and "templates" not in path.parts:
            yield path.parent.relative_to(ROOT).as_posix()
    yield "registry"


def row_of(folder: str) -> Row:
    if folder in TABLE:
        return TABLE[folder]
    family, _, name = folder.rpartition("/")
    if family in FAMILIES:
        row = FAMILIES[family]
        return Row(row.module + name.replace("-", "_"), row.ours, row.others)
    raise AssertionError(f"{folder} has no row in the import table of {Path(__file__).name}")


def below(names: tuple[str, ...]) -> set[str]:
    """Import names of ours that are reachable downwards from ``names``."""
    rows = {row.module: row for row in TABLE.values()}
    found: set[str] = set()
    frontier = list(names)
    while frontier:
        name = frontier.pop()
        if name not in found:
            found.add(name)
            frontier.extend(rows[name].ours)
    return found


def imports_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of every import statement."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0] if not node.level else "."


def complaints(folder: str, row: Row, source_root: Path) -> list[str]:
    allowed = STDLIB | {row.module} | below(row.ours) | set(row.others)
    found = []
    for path in sorted((source_root / row.module).rglob("*.py")):
        inside = path.relative_to(source_root / row.module).as_posix()
        more = {name for start, names in row.edge if inside.startswith(start) for name in names}
        for line, name in imports_of(path.read_text()):
            if name not in allowed | more:
                found.append(f"{folder}: {inside}:{line} imports {name}")
    return found


@pytest.mark.parametrize("folder", list(folders()))
def test_a_package_imports_only_what_its_row_allows(folder: str) -> None:
    row = row_of(folder)
    source_root = ROOT / folder / "src"
    assert (source_root / row.module).is_dir(), f"{folder} has no src/{row.module}"
    assert complaints(folder, row, source_root) == []


def test_every_folder_with_sources_is_a_package() -> None:
    """A package without a pyproject.toml would be overlooked."""
    with_sources = {
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / "packages").rglob("src")
        if path.is_dir() and any(path.glob("*/__init__.py"))
    }
    assert with_sources <= set(folders())


@pytest.mark.parametrize("extra", ["reference", "sglang"])
def test_an_engine_comes_with_every_topology(extra: str) -> None:
    """What the documentation says to install has what the documentation shows."""
    core = tomllib.loads((ROOT / "packages/core/pyproject.toml").read_text(encoding="utf-8"))
    asked = core["project"]["optional-dependencies"][extra]
    topologies = {path.name for path in (ROOT / "packages/backends").iterdir() if path.is_dir()}
    assert "pd" in topologies
    brought = {line.partition(">=")[0] for line in asked}
    assert {f"scripted-backend-{name}" for name in topologies} <= brought


def test_the_table_has_no_way_up() -> None:
    for row in TABLE.values():
        assert row.module not in below(row.ours)


def test_an_unknown_package_is_refused() -> None:
    with pytest.raises(AssertionError, match="packages/novelty has no row"):
        row_of("packages/novelty")
    assert row_of("packages/kits/occupancy").module == "scripted_kit_occupancy"


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import scripted_hook", ["scripted_hook"]),
        ("def f():\n    from scripted_reference.radix import x", ["scripted_reference"]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", ["torch"]),
        ("from . import sibling", ["."]),
        ("import os, msgspec\nfrom scripted_registry import hookimpl", []),
        ("import typer", ["typer"]),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, source: str, wrong: list[str]) -> None:
    package = tmp_path / "scripted_core"
    package.mkdir()
    (package / "module.py").write_text(source)
    found = complaints("packages/core", TABLE["packages/core"], tmp_path)
    assert [line.rpartition(" ")[2] for line in found] == wrong


def test_the_edge_of_the_command_line_may_import_more(tmp_path: Path) -> None:
    package = tmp_path / "scripted_core" / "cli"
    package.mkdir(parents=True)
    (package / "app.py").write_text("import typer")
    assert complaints("packages/core", TABLE["packages/core"], tmp_path) == []

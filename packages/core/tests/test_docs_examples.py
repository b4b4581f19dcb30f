"""Every code block of the documentation that is marked ``runnable`` runs, on the reference engine."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from scripted_core.sessions.base import make_config
from scripted_registry import PluginNotFound
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="unit", runner_config="cpu")

_ROOT = Path(__file__).resolve().parents[3]
_DOCS = _ROOT / "docs"
_BLOCK = re.compile(r"^```python runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_OPENING = re.compile(r"^```[^\n]*runnable", re.MULTILINE)
_PAGES = ("writing-scripts.md", "adapters.md", "authors.md")


def blocks(page: str) -> list[tuple[int, str]]:
    """Line number and code of each runnable block of a page."""
    text = (_DOCS / page).read_text(encoding="utf-8")
    found = [(text.count("\n", 0, one.start()) + 2, one[1]) for one in _BLOCK.finditer(text)]
    assert len(found) == len(_ANY_OPENING.findall(text)), f"{page} has a block that is not closed"
    return found


def test_the_tutorial_has_examples():
    assert len(blocks("writing-scripts.md")) >= 12


@pytest.mark.parametrize("page", _PAGES)
def test_runnable_blocks_run(page, tmp_path):
    try:
        make_config("reference", {})
    except PluginNotFound as error:
        pytest.skip(str(error))
    examples = blocks(page)
    files = {}
    for line, code in examples:
        # The line number of the page, so that a failure points at its block.
        file = tmp_path / f"test_{page.removesuffix('.md').replace('-', '_')}_line_{line}.py"
        file.write_text(code, encoding="utf-8")
        files[file.stem] = line
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"]
    options = [
        "--scripted-backend",
        "reference",
        "--rootdir",
        str(tmp_path),
        f"--junitxml={report}",
    ]
    run = subprocess.run(
        [*command, *options, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    cases = ElementTree.parse(report).iter("testcase")
    ran = {(case.get("classname") or "").split(".")[0] for case in cases}
    assert ran == set(files), "a block has no test in it"


def members(source: Path, class_name: str) -> set[str]:
    """Public names that a protocol declares, read from its source: core imports no hook."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    body = next(
        node.body
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    return {
        node.name if isinstance(node, ast.FunctionDef) else node.target.id
        for node in body
        if isinstance(node, ast.FunctionDef)
        or (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name))
    }


def test_the_adapter_page_has_exactly_the_members_of_the_protocol():
    packages = _ROOT / "packages"
    port = members(packages / "core" / "src" / "scripted_core" / "ports.py", "EnginePort")
    own = members(packages / "hook" / "src" / "scripted_hook" / "adapter.py", "EngineAdapter")
    text = (_DOCS / "adapters.md").read_text(encoding="utf-8")
    part = text.partition("## Member by member")[2].partition("## Registering it")[0]
    rows = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == port | own

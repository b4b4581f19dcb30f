"""Every code block of the documentation that is marked ``runnable`` runs, on the reference engine."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from scripted_core.sessions.base import make_config
from scripted_registry import PluginNotFound

_DOCS = Path(__file__).resolve().parents[3] / "docs"
_BLOCK = re.compile(r"^```python runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_OPENING = re.compile(r"^```[^\n]*runnable", re.MULTILINE)
_PAGES = ("writing-scripts.md", "adapters.md")


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

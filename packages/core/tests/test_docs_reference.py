"""Every command, option, hook and public name is on its page of the documentation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import scripted_core
import scripted_core.testing
import scripted_hook
from scripted_registry import hookspecs, pytest_hookspecs
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="unit", runner_config="cpu")

_ROOT = Path(__file__).resolve().parents[3]
_DOCS = _ROOT / "docs"


def page(name):
    return (_DOCS / name).read_text(encoding="utf-8")


def test_the_written_pages_are_current():
    command = [sys.executable, str(_ROOT / "ci" / "write_reference.py"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("module", [hookspecs, pytest_hookspecs], ids=lambda one: one.__name__)
def test_every_hook_has_its_heading(module):
    hooks = [name for name in vars(module) if name.startswith(("scripted_r", "scripted_m"))]
    hooks += [name for name in vars(module) if name.startswith(("scripted_e", "scripted_o"))]
    hooks += [name for name in vars(module) if name.startswith("pytest_scripted")]
    headings = set(re.findall(r"^### `(\w+)`$", page("hooks.md"), re.MULTILINE))
    assert hooks
    assert set(hooks) <= headings


@pytest.mark.parametrize("module", [scripted_core, scripted_hook, scripted_core.testing])
def test_every_public_name_has_its_row(module):
    rows = set(re.findall(r"^\| `(\w+)` \|", page("reference.md"), re.MULTILINE))
    assert {name for name in module.__all__ if not name.startswith("__")} <= rows


def test_every_option_of_pytest_has_its_row():
    help_text = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        timeout=60,
        check=True,
    ).stdout
    options = set(re.findall(r"--scripted-[a-z-]+", help_text))
    inis = set(re.findall(r"^  (scripted_\w+) \(", help_text, re.MULTILINE))
    rows = set(re.findall(r"^\| (?:ini )?`([\w-]+)` \|", page("reference.md"), re.MULTILINE))
    assert {"--scripted-backend", "--scripted-seed"} <= options
    assert "scripted_backend" in inis
    assert options | inis <= rows


def test_the_authors_page_names_everything_of_the_testing_kit():
    text = page("authors.md").partition("## Testing a plugin")[2].partition("## Before")[0]
    assert {name for name in scripted_core.testing.__all__ if f"`{name}`" not in text} == set()

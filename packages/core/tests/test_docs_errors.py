"""``docs/errors.md`` names every error class, with its code and its place in the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripted_core.errors import CapabilityMissing, ScriptedError
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.errors import CiRegistrationError

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_PAGE = Path(__file__).resolve().parents[3] / "docs" / "errors.md"
_ROW = re.compile(r"^\| `(\w+)` \| `([\w-]+)` \| (.+) \| (.+) \|$", re.MULTILINE)
_BRANCH = re.compile(r"^([│├└─ ]*)(\w+)(?: +→ (.*))?$")
_VIOLATION = re.compile(r'code="([a-z-]+)"|^\s*\("((?:row|page)-[a-z-]+)",', re.MULTILINE)


assert issubclass(CiRegistrationError, ScriptedError)  # imported: the tree is complete only then


def tree(root: type[ScriptedError]) -> set[type[ScriptedError]]:
    found = {root}
    for child in root.__subclasses__():
        found |= tree(child)
    # Tests and plugins may have added branches of their own.
    return {one for one in found if one.__module__.startswith(("scripted_core.", "scripted_reg"))}


@pytest.fixture(scope="module")
def page() -> str:
    return _PAGE.read_text(encoding="utf-8")


def test_every_class_has_a_row_with_its_code(page):
    rows = {name: code for name, code, _, _ in _ROW.findall(page)}
    assert rows == {one.__name__: one.code for one in tree(ScriptedError)}


def test_every_row_says_when_and_what_to_do(page):
    for name, _, when, what_to_do in _ROW.findall(page):
        assert len(when) > 10, name
        assert len(what_to_do) > 5, name


def test_the_drawn_tree_is_the_class_tree(page):
    drawing = re.search(r"^```text\n(ScriptedError\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert drawing is not None
    parents: dict[str, str] = {}
    marks: dict[str, str] = {}
    path: list[str] = []
    for line in drawing[1].splitlines():
        branch = _BRANCH.match(line)
        assert branch is not None, line
        depth = len(branch[1]) // 3
        del path[depth:]
        if path:
            parents[branch[2]] = path[-1]
        marks[branch[2]] = branch[3] or ""
        path.append(branch[2])
    classes = tree(ScriptedError)
    assert parents == {
        one.__name__: one.__mro__[1].__name__ for one in classes if one is not ScriptedError
    }
    assert {name for name, mark in marks.items() if mark.startswith("FAILED")} == {
        one.__name__ for one in classes if issubclass(one, AssertionError)
    }
    assert marks[CapabilityMissing.__name__] == "skip"


def test_every_violation_code_is_listed(page):
    hook = _PAGE.parents[1] / "packages" / "hook" / "src" / "scripted_hook"
    sources = [file.read_text(encoding="utf-8") for file in hook.glob("*.py")]
    codes = {one for text in sources for pair in _VIOLATION.findall(text) for one in pair if one}
    assert len(codes) >= 10, "the pattern no longer finds the codes in the sources"
    assert {code for code in codes if f"`{code}`" not in page} == set()

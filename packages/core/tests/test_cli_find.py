"""Finding the scripts of a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted_core.cli.find import find_scripts
from scripted_core.errors import ConfigError, ScriptNotImportable
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

TWO_SCRIPTS = """
import pytest

ENGINE_KWARGS = {"page_size": 1, "chunked_prefill_size": 64}
pytestmark = [pytest.mark.scripted(page_size=4), pytest.mark.scripted_requires("retract")]


def script_plain(t):
    yield


@pytest.mark.scripted(page_size=16)
@pytest.mark.scripted(page_size=8, max_running_requests=2)
@pytest.mark.scripted_options(check_invariants=False)
def test_marked(t, extra=None):
    yield


def test_no_generator(t):
    return None


def helper(t):
    yield
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for script files; what it adds to the import system is taken out again."""
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(folder: Path, text: str, name: str = "cli_scripts.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_generator_functions_that_take_t_are_found_in_order(folder: Path) -> None:
    found = find_scripts(str(write(folder, TWO_SCRIPTS)))
    assert [script.name for script in found.scripts] == ["script_plain", "test_marked"]
    assert found.left_out == {}


def test_the_nearest_mark_wins_over_module_and_engine_kwargs(folder: Path) -> None:
    plain, marked = find_scripts(str(write(folder, TWO_SCRIPTS))).scripts
    assert plain.engine_kwargs == {"page_size": 4, "chunked_prefill_size": 64}
    assert marked.engine_kwargs["page_size"] == 8  # the decorator nearest to the function
    assert marked.engine_kwargs["max_running_requests"] == 2
    assert marked.requires == ("retract",)
    assert marked.options == {"check_invariants": False}


@pytest.mark.parametrize("separator", [":", "::"])
def test_one_script_by_name(folder: Path, separator: str) -> None:
    path = write(folder, TWO_SCRIPTS)
    found = find_scripts(f"{path}{separator}helper")
    assert [script.name for script in found.scripts] == ["helper"]


def test_two_files_of_one_name_are_two_modules(folder: Path) -> None:
    for sub in ("a", "b"):
        (folder / sub).mkdir()
        write(folder / sub, f"def script_{sub}(t):\n    yield\n")
    names = [find_scripts(str(folder / s / "cli_scripts.py")).scripts[0].name for s in "ab"]
    assert names == ["script_a", "script_b"]


def test_a_script_can_import_its_neighbour(folder: Path) -> None:
    write(folder, "ANSWER = 42\n", "cli_neighbour.py")
    path = write(folder, "from cli_neighbour import ANSWER\ndef script_a(t):\n    yield ANSWER\n")
    assert find_scripts(str(path)).scripts[0].name == "script_a"


def test_scripts_that_need_pytest_are_left_out_with_the_reason(folder: Path) -> None:
    path = write(
        folder,
        "import pytest\n"
        "def test_fixture(t, tmp_path):\n    yield\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_cases(t, n):\n    yield\n"
        "def script_fine(t):\n    yield\n",
    )
    found = find_scripts(str(path))
    assert [script.name for script in found.scripts] == ["script_fine"]
    assert found.left_out == {
        "test_fixture": "it takes fixtures (tmp_path)",
        "test_cases": "it is parametrized",
    }
    with pytest.raises(ConfigError, match="test_cases: it is parametrized") as caught:
        find_scripts(f"{path}:test_cases")
    assert caught.value.hint == "run it with pytest: pytest cli_scripts.py::test_cases"


@pytest.mark.parametrize(
    ("text", "target", "message", "hint"),
    [
        ("", "", "has no script", "generator function"),
        (TWO_SCRIPTS, ":nope", "has no 'nope'", "script_plain, test_marked"),
        (TWO_SCRIPTS, ":test_no_generator", "not a generator function", "yields at least once"),
    ],
)
def test_a_wrong_name_is_a_message_with_a_hint(
    folder: Path, text: str, target: str, message: str, hint: str
) -> None:
    path = write(folder, text)
    with pytest.raises(ConfigError, match=message) as caught:
        find_scripts(f"{path}{target}")
    assert hint in str(caught.value.hint)


def test_a_missing_file_and_a_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*absent\.py"):
        find_scripts(str(folder / "absent.py"))
    with pytest.raises(ConfigError, match=r"no file .*absent\.py"):
        find_scripts(str(folder / "absent.py") + ":script_a")
    with pytest.raises(ConfigError, match="is a folder"):
        find_scripts(str(folder))


@pytest.mark.parametrize(
    ("text", "message"),
    [("import no_such_module_here\n", "ModuleNotFoundError"), ("def (:\n", "line 1: SyntaxError")],
)
def test_a_file_that_does_not_import(folder: Path, text: str, message: str) -> None:
    path = write(folder, text, "cli_broken.py")
    with pytest.raises(ScriptNotImportable, match=message):
        find_scripts(str(path))
    assert "cli_broken" not in sys.modules

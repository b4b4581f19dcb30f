from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="unit", runner_config="cpu")

FILES = ("ci/manifest.json", ".github/workflows/stages.yml", "ci/buildkite.yml")
ROOT = Path(__file__).parents[2]
LATER = """
    from scripted_registry import CiStage, hookimpl

    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_ci_stages():
        return [CiStage(name="later", runner="1-gpu-h100", summary="", command="pytest {tests}")]
"""


def generated(repository: Any) -> dict[str, bytes]:
    return {name: (repository.root / name).read_bytes() for name in FILES}


def stage_of(repository: Any, name: str) -> Any:
    (found,) = [one for one in repository.manifest()["stages"] if one["name"] == name]
    return found


def test_the_files_are_written_and_the_same_again_byte_for_byte(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n", est=90)
    repository.add_tests("test_b.py", "def test_2(): pass\n", est=30, more=", nightly=True")
    repository.add_tests("test_c.py", "def test_3(): pass\n", more=', disabled="a reason"')
    done = repository.run("register")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    assert ["toy", "cpu", "-", "1 file", "1 min 30 s", "1/1", "acme"] in rows
    assert ["toy (nightly)", "cpu", "-", "1 file", "30 s", "1/1", "acme"] in rows
    assert ["deep", "8-npu", "-", "0", "-", "-", "acme"] in rows
    assert "3 test files are registered" in done.stdout
    first = generated(repository)
    toy = stage_of(repository, "toy")
    assert [(run["nightly"], run["shards"], run["est_time_s"]) for run in toy["runs"]] == [
        (False, 1, 90),
        (True, 1, 30),
    ]
    assert [file["path"] for file in toy["files"]] == [
        "tests/test_a.py",
        "tests/test_b.py",
        "tests/test_c.py",
    ]
    assert str(repository.root) not in "".join(text.decode() for text in first.values())
    again = repository.run("register")
    assert again.stdout.count(": unchanged") == 3
    assert generated(repository) == first
    for name in FILES:
        (repository.root / name).unlink()
    assert repository.run("register").returncode == 0
    assert generated(repository) == first


def test_a_stale_file_is_told_and_left_alone(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    repository.registered()
    assert repository.run("register", "--check").returncode == 0
    before = generated(repository)
    repository.add_tests("test_b.py", "def test_2(): pass\n")
    done = repository.run("register", "--check")
    assert done.returncode == 1
    assert "error: stale: ci/manifest.json" in done.stderr
    assert "test_b.py" in done.stderr
    assert "hint: `scripted ci register`" in done.stderr
    assert generated(repository) == before
    repository.registered()
    (repository.root / FILES[2]).unlink()
    done = repository.run("register", "--check")
    assert done.returncode == 1
    assert "ci/buildkite.yml is not there" in done.stderr
    # One byte is enough.
    repository.registered()
    path = repository.root / FILES[1]
    path.write_bytes(path.read_bytes() + b"\n")
    assert repository.run("register", "--check").returncode == 1


def test_strict_refuses_a_test_file_that_nobody_registered(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    repository.write("tests/helper.py", "x = 1\n")
    assert repository.run("register", "--strict").returncode == 0
    repository.write("tests/deep/test_lost.py", "def test_1(): pass\n")
    repository.write("tests/lost_test.py", "def test_1(): pass\n")
    assert repository.run("register").returncode == 0
    done = repository.run("register", "--strict", "--check")
    assert done.returncode == 2
    told = re.findall(r"(tests/\S+\.py):1: no stage runs this test file", done.stderr)
    assert sorted(told) == ["tests/deep/test_lost.py", "tests/lost_test.py"]
    assert "Traceback" not in done.stderr
    text = (repository.root / "pyproject.toml").read_text()
    excluded = 'exclude = ["tests/deep/*", "tests/lost_test.py"]'
    repository.write("pyproject.toml", text.replace("[tool.pytest", f"{excluded}\n[tool.pytest"))
    assert repository.run("register", "--strict").returncode == 0


def test_a_package_that_comes_later_is_found_with_no_other_change(repository: Any) -> None:
    repository.registered()
    assert "later" not in {stage["name"] for stage in repository.manifest()["stages"]}
    repository.add_package("newcomer", LATER)
    assert repository.run("register", "--check").returncode == 1
    repository.registered()
    later = stage_of(repository, "later")
    assert (later["distribution"], later["runner"]) == ("newcomer", "1-gpu-h100")
    shutil.rmtree(repository.root / "packages/newcomer")
    repository.registered()
    assert "later" not in {stage["name"] for stage in repository.manifest()["stages"]}


def test_a_package_whose_plugin_is_broken_is_named(repository: Any) -> None:
    repository.add_package("newcomer", "import no_such_module_xyz\n")
    done = repository.run("register")
    assert done.returncode == 2
    assert "the plugin of newcomer" in done.stderr
    assert "No module named 'no_such_module_xyz'" in done.stderr
    assert "hint: a plugin module is imported without its package being installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_pipelines_name_runners_shards_and_whole_commands(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    for number in range(3):
        text = (
            "from scripted_registry.ci import register_ci\n"
            'register_ci(900, backend="npu", stage="deep", runner_config="8-npu")\n'
        )
        repository.write(f"tests/test_deep_{number}.py", text)
    repository.registered()
    workflow = yaml.safe_load((repository.root / FILES[1]).read_text())
    npu = workflow["jobs"]["on-8-npu"]
    assert npu["runs-on"] == ["self-hosted", "npu"]
    assert npu["if"] == "contains(format(' {0} ', vars.SCRIPTED_CI_RUNNERS), ' 8-npu ')"
    assert "if" not in workflow["jobs"]["on-cpu"]
    commands = [entry["command"] for entry in npu["strategy"]["matrix"]["include"]]
    assert commands == [
        f"hatch run npu:scripted ci run --stage deep --runner 8-npu --shard {i}/3 --output ci-results"
        for i in (1, 2, 3)
    ]
    steps = yaml.safe_load((repository.root / FILES[2]).read_text())["steps"]
    toy = next(one for one in steps if isinstance(one, dict) and one["label"].startswith("toy"))
    assert toy["agents"] == {"queue": "cpu"}
    assert toy["commands"] == [
        "python -m pip install 'acme[toy]'",
        "scripted ci run --stage toy --runner cpu --shard 1/1 --output ci-results",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("package = []", "has no setting 'package'"),
        ('packages = "packages"', "give a list of strings"),
        ("environment = 3", "name a hatch environment"),
        ("environments = []", "give a table"),
        ('setup = { x = "true" }', "give a list of strings"),
        ("tests = [", "cannot be read"),
    ],
)
def test_settings_that_cannot_be_used(repository: Any, line: str, said: str) -> None:
    repository.write("pyproject.toml", f"[tool.scripted.ci]\n{line}\n")
    done = repository.run("register")
    assert done.returncode == 2
    assert said in done.stderr
    assert "pyproject.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_bring_environments_and_what_completes_them(repository: Any) -> None:
    text = (repository.root / "pyproject.toml").read_text()
    more = 'environment = "all"\nsetup = { all = ["make engine"], npu = ["make npu"] }\n'
    repository.write("pyproject.toml", text.replace("[tool.pytest", f"{more}[tool.pytest"))
    repository.registered()
    assert stage_of(repository, "toy")["environment"] == "all"
    assert stage_of(repository, "toy")["setup"] == ["make engine"]
    assert stage_of(repository, "deep")["environment"] == "npu"
    assert stage_of(repository, "deep")["setup"] == ["make npu", "true"]


def test_timings_say_how_many_shards(repository: Any) -> None:
    names = {f"test_{i}": [100.0] for i in range(30)}
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    data = {
        "version": 1,
        "suites": {"toy-test-cpu": {"starts": {}, "tests": {"tests/test_a.py": {"": names}}}},
    }
    (repository.root / "ci").mkdir()
    (repository.root / "ci/timings.json").write_text(json.dumps(data))
    done = repository.run("register")
    (run,) = stage_of(repository, "toy")["runs"]
    assert run == {"nightly": False, "shards": 5, "est_time_s": 3000, "longest_shard_s": 600}
    assert [line.split("│")[6].strip() for line in done.stdout.splitlines() if "│ toy" in line] == [
        f"{i}/5" for i in range(1, 6)
    ]
    (repository.root / "ci/timings.json").write_text('{"version": 1, "suites": {"x": 3}}')
    done = repository.run("register")
    assert done.returncode == 2
    assert "timings.json cannot be used" in done.stderr


def test_with_paths_nothing_is_written(repository: Any) -> None:
    repository.add_tests("test_a.py", "def test_1(): pass\n")
    done = repository.run("register", "tests")
    assert done.returncode == 0
    assert "tests/test_a.py:2" in done.stdout
    assert "nothing was written" in done.stderr
    assert not (repository.root / "ci").exists()

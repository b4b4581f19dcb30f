from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_registry import ConfigError
from scripted_registry.ci import register_ci, register_cpu_ci, register_cuda_ci
from scripted_registry.ci.errors import CiRegistrationError
from scripted_registry.ci.scan import (
    CiBackend,
    CiRegistration,
    python_files,
    scan_file,
    scan_paths,
    scan_source,
)

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")

PATH = Path("tests/test_x.py")


def scan_one(source: str) -> CiRegistration:
    (registration,) = scan_source(source, path=PATH)
    return registration


@pytest.mark.parametrize("register", [register_cpu_ci, register_cuda_ci])
def test_registering_has_no_effect_at_run_time(register: Any) -> None:
    assert register(1.0, "suite") is None
    assert register(est_time=1, stage="a", runner_config="b", nightly=True, disabled="why") is None
    assert str(inspect.signature(register)) == (
        "(est_time: 'float', suite: 'str | None' = None, nightly: 'bool' = False, "
        "disabled: 'str | None' = None, *, stage: 'str | None' = None, "
        "runner_config: 'str | None' = None) -> 'None'"
    )


def test_a_registration_by_stage_and_runner() -> None:
    source = (
        "from scripted_registry.ci import register_cuda_ci\n\n"
        'register_cuda_ci(est_time=60, stage="base-b", runner_config="1-gpu-h100", nightly=True)\n'
    )
    assert scan_one(source) == CiRegistration(
        path=PATH,
        line=3,
        function="register_cuda_ci",
        backend=CiBackend.CUDA,
        est_time_s=60.0,
        suite="base-b-test-1-gpu-h100",
        stage="base-b",
        runner_config="1-gpu-h100",
        nightly=True,
        disabled=None,
    )


def test_a_registration_by_suite() -> None:
    found = scan_one('register_cpu_ci(2.5, "per-commit", False, "flaky on CPU")')
    assert (found.suite, found.stage, found.runner_config) == ("per-commit", None, None)
    assert (found.est_time_s, found.nightly, found.disabled) == (2.5, False, "flaky on CPU")
    assert found.backend is CiBackend.CPU


def test_a_registration_for_any_backend() -> None:
    found = scan_one('register_ci(3, backend="npu", stage="base", runner_config="8-npu")')
    assert (found.function, found.backend, found.suite) == ("register_ci", "npu", "base-test-8-npu")
    register: Any = register_ci  # by that name, or this very file would be refused
    assert register(3, backend="npu", suite="s") is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('register_ci(3, suite="s")', "missing a required.* 'backend'"),
        ('register_ci(3, backend=DEVICE, suite="s")', "backend is computed: DEVICE"),
        ('register_ci(3, backend=None, suite="s")', "backend is None"),
        ('register_ci(3, backend="", suite="s")', "backend is ''"),
    ],
)
def test_a_backend_is_a_literal_too(call: str, said: str) -> None:
    with pytest.raises(CiRegistrationError, match=rf"^tests/test_x\.py:1: register_ci: .*{said}"):
        scan_source(call, path=PATH)


@pytest.mark.parametrize(
    "source",
    [
        'import scripted_registry.ci as ci\nci.register_cpu_ci(1, suite="s")',
        'from scripted_registry.ci import register_cpu_ci as reg\nreg(1, suite="s")',
        '# -*- coding: latin-1 -*-\nregister_cpu_ci(1, suite="s")',
        'register_cpu_ci(1, suite="s", disabled=None)',
        'register_cpu_ci(1, stage=None, suite="s")',
        'x = "\\d"\nregister_cpu_ci(1, suite="s")',
    ],
)
def test_ways_to_write_it(source: str) -> None:
    assert scan_one(source).suite == "s"


def test_one_file_may_be_in_several_suites() -> None:
    source = 'register_cpu_ci(1, suite="a")\nregister_cuda_ci(2, suite="b")\n'
    assert [found.suite for found in scan_source(source, path=PATH)] == ["a", "b"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('register_cpu_ci(*args, suite="s")', "star arguments"),
        ("register_cpu_ci(1, **kwargs)", "star arguments"),
        ('register_cpu_ci(60 * 2, suite="s")', r"est_time is computed: 60 \* 2"),
        ('register_cpu_ci(SLOW, suite="s")', "est_time is computed: SLOW"),
        ('register_cpu_ci(1 + 2j, suite="s")', "number of seconds"),
        ('register_cpu_ci("60", suite="s")', "est_time is '60'"),
        ('register_cpu_ci(True, suite="s")', "est_time is True"),
        ('register_cpu_ci(0, suite="s")', "positive"),
        ('register_cpu_ci(-5, suite="s")', "positive"),
        ('register_cpu_ci(1e999, suite="s")', "positive"),
        (f'register_cpu_ci(1{"0" * 400}, suite="s")', "positive"),
        ('register_cpu_ci([1], suite="s")', "number of seconds"),
        ('register_cpu_ci(1, suite="s", disabled=reason())', "disabled is computed"),
        ('register_cpu_ci(1, suite="s", disabled=f"bug {n}")', "disabled is computed"),
        ('register_cpu_ci(1, suite="s", disabled=True)', "disabled is True; write a reason"),
        ('register_cpu_ci(1, suite="s", disabled="")', "disabled is ''"),
        ('register_cpu_ci(1, suite="s", nightly=1)', "nightly is 1; write True or False"),
        ('register_cpu_ci(1, suite="s", nightly=FULL)', "nightly is computed"),
        ("register_cpu_ci(1)", "needs stage and runner_config together, or suite"),
        ('register_cpu_ci(1, stage="a")', "needs stage and runner_config together"),
        ('register_cpu_ci(1, runner_config="a")', "needs stage and runner_config together"),
        (
            'register_cpu_ci(1, suite="s", stage="a", runner_config="b")',
            "both suite and stage or runner_config",
        ),
        ('register_cpu_ci(1, suite="s", stage="a")', "both suite and stage"),
        ('register_cpu_ci(1, suite=" ")', "suite is ' '"),
        ("register_cpu_ci(1, suite=3)", "suite is 3"),
        ("register_cpu_ci(1, stage=STAGE, runner_config='b')", "stage is computed: STAGE"),
        ('register_cpu_ci(suite="s")', "missing a required argument: 'est_time'"),
        ('register_cpu_ci(1, suite="s", gpus=2)', "unexpected keyword argument 'gpus'"),
        ('register_cpu_ci(1, est_time=2, suite="s")', "multiple values"),
        ('register_cpu_ci(1, suite="s", suite="s")', "twice"),
        ('register_cpu_ci(1, "s", False, None, "stage")', "too many positional"),
        ('if True:\n    register_cpu_ci(1, suite="s")', "top level"),
        ('def f():\n    register_cpu_ci(1, suite="s")', "top level"),
        ('x = register_cpu_ci(1, suite="s")', "top level"),
        ('register_cpu_ci(1, suite="s")\nregister_cpu_ci(1, suite="s")', "again, after line 2"),
    ],
)
def test_what_cannot_be_read_is_refused_with_file_and_line(call: str, said: str) -> None:
    source = f"\n{call}\n"
    with pytest.raises(CiRegistrationError, match=said) as caught:
        scan_source(source, path=PATH)
    (problem,) = caught.value.problems
    assert problem.line == 1 + len(call.splitlines())
    assert f"tests/test_x.py:{problem.line}: register_cpu_ci: " in caught.value.message
    assert caught.value.hint is not None


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text("register_cpu_ci(1)\n\nregister_cpu_ci(X, suite='s')\n")
    (tmp_path / "test_b.py").write_text("register_cpu_ci(1,\n")
    (tmp_path / "test_c.py").write_text("register_cpu_ci(1, suite='s')\n")
    with pytest.raises(CiRegistrationError) as caught:
        scan_paths([tmp_path])
    where = [(problem.path.name, problem.line) for problem in caught.value.problems]
    assert where == [("test_a.py", 1), ("test_a.py", 3), ("test_b.py", 1)]
    assert "test_b.py:1: is not Python" in caught.value.message


def test_text_that_only_looks_like_a_call_is_no_registration() -> None:
    source = '''
"""register_cpu_ci(est_time=X)"""
# register_cpu_ci(est_time=X)
def register_cpu_ci(est_time, suite=None): ...
other(register_cpu_ci)
'''
    assert scan_source(source, path=PATH) == []


def test_a_file_is_not_imported(tmp_path: Path) -> None:
    file = tmp_path / "test_boom.py"
    file.write_text("register_cpu_ci(1, suite='s')\nraise SystemExit('imported')\n")
    assert [found.line for found in scan_file(file)] == [1]


def test_a_broken_file_without_registration_is_nobodys_business(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_bytes(b"def \xff(:")
    assert scan_file(file) == []


@pytest.mark.parametrize("text", [b"register_cpu_ci(1)\0", b"# coding: nope\nregister_cpu_ci(1)"])
def test_bytes_that_are_no_source(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "bad.py"
    file.write_bytes(text)
    with pytest.raises(CiRegistrationError, match=r"bad\.py:1: is not Python"):
        scan_file(file)


def test_which_files_are_read(tmp_path: Path) -> None:
    wanted = ["a/test_one.py", "a/b/helper.py", "test_top.py"]
    unwanted = [
        ".hidden/test_x.py",
        "build/test_x.py",
        "env/lib/test_x.py",
        "a/__pycache__/test_x.py",
        "node_modules/test_x.py",
        "a/readme.md",
    ]
    for name in [*wanted, *unwanted]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("register_cpu_ci(1, suite='s')\n")
    (tmp_path / "env" / "pyvenv.cfg").touch()
    found = [path.relative_to(tmp_path).as_posix() for path in python_files([tmp_path])]
    assert sorted(found) == sorted(wanted)
    # a folder that is named is read, whatever it is called, and no file is read twice
    assert len(list(python_files([tmp_path / "build"]))) == 1
    assert len(list(python_files([tmp_path, tmp_path / "a", tmp_path / "test_top.py"]))) == 3


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file or folder"):
        scan_paths([tmp_path / "absent"])


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)


@given(
    est_time=st.one_of(st.integers(1, 10**6), st.floats(0.001, 1e6)),
    stage=NAMES,
    runner=NAMES,
    nightly=st.booleans(),
    disabled=st.one_of(st.none(), st.text(min_size=1).filter(str.strip)),
    backend=st.sampled_from(CiBackend),
)
def test_what_is_written_is_what_is_read(
    est_time: float,
    stage: str,
    runner: str,
    nightly: bool,
    disabled: str | None,
    backend: CiBackend,
) -> None:
    source = (
        f"register_{backend}_ci({est_time!r}, nightly={nightly!r}, disabled={disabled!a}, "
        f"stage={stage!r}, runner_config={runner!r})"
    )
    assert scan_one(source) == CiRegistration(
        path=PATH,
        line=1,
        function=f"register_{backend}_ci",
        backend=backend,
        est_time_s=float(est_time),
        suite=f"{stage}-test-{runner}",
        stage=stage,
        runner_config=runner,
        nightly=nightly,
        disabled=disabled,
    )

"""That each seeded fault is found by the script that the table names, and only with the fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from scripted_reference.engine import Engine
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.faults import measure
from scripted_reference.faults.__main__ import main
from scripted_reference.faults.catalogue import FAULTS
from scripted_reference.faults.fault import Area, FaultNotHere
from scripted_reference.faults.measure import Finding
from scripted_reference.faults.portable import PortableScript, portable_scripts
from scripted_reference.faults.table import BEGIN, written_into
from scripted_reference.faults.trial import Alarm, AlarmKind, Variant, try_out
from scripted_reference.in_process import make_engine
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=9, stage="reference", runner_config="cpu")

_ROOT = Path(__file__).parents[4]
_DOCS = _ROOT / "docs" / "faults.md"
_FOUND_BY = measure.load()
_FOUND = [name for name, found in _FOUND_BY.items() if found]


@pytest.fixture(scope="module")
def scripts() -> dict[str, PortableScript]:
    folders = dict.fromkeys(area.scripts for area in Area)
    return {script.name: script for one in folders for script in portable_scripts(_ROOT / one)}


@pytest.fixture(scope="module")
def silent() -> dict[str, Alarm | None]:
    """What scripts said without a fault; several faults are found by one script."""
    return {}


def _variant(scripts: dict[str, PortableScript], finding: Finding) -> Variant:
    assert finding.script in scripts, f"{finding.script} is gone; run hatch run faults --write-docs"
    return Variant(script=scripts[finding.script], overlap=finding.overlap)


@pytest.mark.parametrize("name", _FOUND)
def test_the_script_that_is_named_finds_it(name, scripts, silent):
    finding = _FOUND_BY[name][0]
    variant = _variant(scripts, finding)
    if variant.script.skipped is not None:
        pytest.skip(variant.script.skipped)
    key = finding.label
    if key not in silent:
        silent[key] = try_out(variant, fault=None)
    assert silent[key] is None, "it raises an alarm without a fault too"
    alarm = try_out(variant, fault=name)
    assert alarm is not None, f"{finding.label} does not notice {name}"
    assert str(alarm) == finding.alarm, "it shows otherwise; run hatch run faults --write-docs"


def test_at_least_nine_in_ten_are_found():
    assert len(FAULTS) >= 30
    assert measure.share_found(_FOUND_BY) >= measure.REQUIRED_SHARE
    for name, found in _FOUND_BY.items():
        assert found or FAULTS[name].out_of_reach, f"{name} is not found, and nothing says why"


def test_the_table_is_what_was_measured():
    text = _DOCS.read_text(encoding="utf-8")
    assert written_into(text, _FOUND_BY) == text, "run hatch run faults --write-docs"
    with pytest.raises(ConfigError, match="no place for the table"):
        written_into(text.replace(BEGIN, ""), _FOUND_BY)


def test_each_fault_replaces_one_method_of_a_part_of_the_engine():
    for name, fault in FAULTS.items():
        given = {"max_total_tokens": 512, **fault.area.engine_kwargs, "inject_fault": name}
        engine, _ = make_engine(parse_engine_kwargs(given))
        assert engine.server_args.inject_fault == name
        method = fault.place.partition(".")[2]
        assert getattr(fault.base, method) is not getattr(fault.variant, method)
        assert fault.summary.endswith(".")
        assert fault.stands_for


def test_a_fault_breaks_every_replica_of_its_engine_and_no_other_engine():
    fault = FAULTS["match-too-long"]
    broken = Engine(parse_engine_kwargs({"inject_fault": fault.name, "dp_size": 2}))
    sound = Engine(parse_engine_kwargs({"dp_size": 2}))
    assert {type(one.tree_cache) for one in broken.schedulers} == {fault.variant}
    assert {type(one.tree_cache) for one in sound.schedulers} == {fault.base}


def test_a_fault_breaks_every_stage_and_not_an_engine_without_that_part():
    fault = FAULTS["retract-misses-slots"]
    broken, _ = make_engine(parse_engine_kwargs({"inject_fault": fault.name, "pp_size": 3}))
    assert [type(one.departures) for one in broken.all_schedulers()] == [fault.variant] * 3
    with pytest.raises(FaultNotHere, match="no part of this engine is a PipelineDepartures"):
        make_engine(parse_engine_kwargs({"inject_fault": fault.name}))


def test_an_engine_without_a_fault_does_not_even_import_them():
    program = (
        "import sys\n"
        "from scripted_reference.args import ServerArgs\n"
        "from scripted_reference.engine import Engine\n"
        "Engine(ServerArgs())\n"
        "print([name for name in sys.modules if name.startswith('scripted_reference.faults')])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("stale-rows", "did you mean 'stale-row'"),
        ("double_free_after_retract", "did you mean 'double-free-after-retract'"),
        ("?", "--list"),
        (3, "--list"),
    ],
)
def test_an_unknown_fault_is_refused_with_the_nearest_one(given, hint):
    with pytest.raises(ConfigError, match="names no seeded fault") as caught:
        parse_engine_kwargs({"inject_fault": given})
    assert hint in str(caught.value)


def _command(monkeypatch, capsys, *, alarm_without=None, alarm_with=None, **options):
    """Run the command on one script that raises these alarms."""
    script = PortableScript(
        name="test_x.py::test_x",
        function=print,
        arguments={},
        engine_kwargs={"disable_overlap_schedule": True},
        requires=frozenset(),
        skipped=None,
    )
    monkeypatch.setattr("scripted_reference.faults.__main__.portable_scripts", lambda _: [script])
    monkeypatch.setattr(
        measure, "try_out", lambda _, *, fault: alarm_with if fault else alarm_without
    )
    status = 0
    try:
        main(**options)
    except typer.Exit as error:
        status = error.exit_code
    return status, capsys.readouterr()


_ALARM = Alarm(AlarmKind.INVARIANT, "page-orphaned")


@pytest.mark.parametrize(
    ("alarms", "status", "said"),
    [
        ({"alarm_with": _ALARM}, 0, "1 of 1 faults found (100%), 0 false alarms"),
        ({}, 1, "NOT FOUND"),
        ({"alarm_with": _ALARM, "alarm_without": _ALARM}, 1, "FALSE ALARM  test_x.py::test_x"),
    ],
)
def test_the_commands_exit_status(monkeypatch, capsys, alarms, status, said):
    got, printed = _command(monkeypatch, capsys, **alarms, only=["stale-row"])
    assert (got, said in printed.out) == (status, True), printed


def test_the_command_refuses_what_it_cannot_do(monkeypatch, tmp_path, capsys):
    status, printed = _command(monkeypatch, capsys, only=["stale-rows"])
    assert status == 2
    assert "did you mean 'stale-row'" in printed.err
    status, printed = _command(monkeypatch, capsys, only=["stale-row"], write_docs=True)
    assert status == 2
    assert "--only" in printed.err
    with pytest.raises(ConfigError, match="no scripts in"):
        portable_scripts(tmp_path / "nowhere")

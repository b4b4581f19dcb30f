"""What is found in a release without starting it: names in its source, and what their lack costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch, probes
from scripted_sglang._compat.needs import (
    ATTRIBUTES,
    HOOKS,
    PAIR_HOOKS,
    SEND_ABORT_OUTPUT,
    Place,
)
from scripted_sglang.plugin import scripted_register_engines
from scripted_sglang.source import defines

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")

_NEEDS_SGLANG = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)
_SCHEDULER = """
raise RuntimeError("imported")
from sglang.srt.managers.mixins import Pausing as PausingMixin
from elsewhere import Unknown

class Base:
    def from_base(self): ...

class Scheduler(Base, PausingMixin, Unknown, generic.Other):
    declared: int
    assigned = 1
    def method(self):
        self.attribute: int = 1
        self.other, local = 1, 2
        request.not_ours = 3
        return self.only_read
    async def coroutine(self): ...

def function(): ...
CONSTANT = 1
"""
_MIXINS = """
class Pausing:
    def pause(self):
        self.paused = True
"""


def _package(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        file = folder.joinpath("srt", *name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("owner", "name", "there"),
    [
        ("Scheduler", "declared", True),
        ("Scheduler", "assigned", True),
        ("Scheduler", "method", True),
        ("Scheduler", "coroutine", True),
        ("Scheduler", "attribute", True),
        ("Scheduler", "other", True),
        ("Scheduler", "from_base", True),
        ("Scheduler", "local", False),
        ("Scheduler", "not_ours", False),
        ("Scheduler", "only_read", False),
        ("Base", "method", False),
        ("Nobody", "method", False),
        ("", "Scheduler", True),
        ("", "function", True),
        ("", "CONSTANT", True),
        ("", "method", False),
    ],
)
def test_names_are_found_in_the_source(tmp_path: Path, owner: str, name: str, there: bool) -> None:
    package = _package(tmp_path, managers__scheduler=_SCHEDULER)
    assert defines(package, Place("managers.scheduler", owner, name)) is there


def test_what_comes_from_a_base_in_another_module_is_found(tmp_path: Path) -> None:
    package = _package(tmp_path, managers__scheduler=_SCHEDULER, managers__mixins=_MIXINS)
    for name in ("pause", "paused"):
        assert defines(package, Place("managers.scheduler", "Scheduler", name))
    assert not defines(package, Place("managers.scheduler", "Scheduler", "unpause"))
    assert not defines(package, Place("managers.gone", "Scheduler", "pause"))


def test_the_first_place_that_a_release_has_is_hooked(tmp_path: Path) -> None:
    newest, older = SEND_ABORT_OUTPUT.places
    sender = "class SenderWrapper:\n    def send_output(self): ..."
    old = _package(tmp_path / "old", managers__scheduler_components__output_sender=sender)
    assert probes.find_place(old, SEND_ABORT_OUTPUT) == older
    assert older.dotted == (
        "sglang.srt.managers.scheduler_components.output_sender.SenderWrapper.send_output"
    )
    new = _package(
        tmp_path / "new",
        managers__scheduler_components__output_sender=sender,
        managers__scheduler="class Scheduler:\n    def send_abort_output(self): ...",
    )
    assert probes.find_place(new, SEND_ABORT_OUTPUT) == newest


def test_what_is_missing_says_what_a_script_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = _package(tmp_path, managers__scheduler="class Scheduler:\n    def run_batch(self): ...")
    monkeypatch.setattr(probes, "source_folder", lambda: empty)
    monkeypatch.setattr(probes, "installed_version", lambda: "0.5.99")
    found = probes.describe_installation()
    assert found is not None
    assert (found.version, found.is_tested) == ("0.5.99", False)
    assert len(found.probes) == len(HOOKS) + len(ATTRIBUTES)
    assert "Scheduler.run_batch" not in [probe.name for probe in found.missing]
    assert "Scheduler.flush_cache" in [probe.name for probe in found.missing_required]
    (held,) = [probe for probe in found.missing if probe.name.endswith(".session_held_tokens")]
    assert held not in found.missing_required
    assert str(held) == (
        "SchedulerPoolStatsObserver.session_held_tokens is missing (declare held KV pages to "
        "SGLang's leak check); without it a script loses exhaust_kv: SGLang's leak check ends the "
        "scheduler"
    )
    assert found.summary.startswith(f"1 of {len(HOOKS)} hook targets and 0 of {len(ATTRIBUTES)} ")
    (spec,) = scripted_register_engines()
    assert spec.remark is not None
    assert (spec.remark() or "").startswith(
        "SGLang 0.5.99 is untested (tested: 0.5.23, 0.5.20 and 0.5.15): 1 of "
    )


@_NEEDS_SGLANG
def test_all_that_is_needed_is_in_the_installed_release() -> None:
    found = probes.describe_installation()
    assert found is not None
    # Older releases do not show what the servers of a pair send each other, and have no pairs here.
    of_pairs = {need.name for need in PAIR_HOOKS}
    assert [probe for probe in found.missing if probe.name not in of_pairs] == []
    if found.version == probes.TESTED_VERSIONS[0]:
        assert found.missing == ()
    assert {probe.is_hook for probe in found.probes} == {True, False}
    if found.is_tested:
        (spec,) = scripted_register_engines()
        assert spec.remark is not None
        remark = spec.remark()
        assert (remark is None) == (not found.missing)
        assert remark is None or "a script loses disaggregation_mode='pair'" in remark


@_NEEDS_SGLANG
def test_a_member_that_a_release_renames_is_noticed(tmp_path: Path) -> None:
    package = probes.source_folder()
    assert package is not None
    renamed = tmp_path / "srt" / "managers" / "scheduler.py"
    renamed.parent.mkdir(parents=True)
    text = (package / "srt" / "managers" / "scheduler.py").read_text(encoding="utf-8")
    renamed.write_text(text.replace("_engine_paused", "_is_paused"), encoding="utf-8")
    there = {probe.name for probe in probes.probe(tmp_path) if probe.found is not None}
    assert "Scheduler._engine_paused" not in there
    assert "Scheduler.waiting_queue" in there

"""What the README shows of the demo is what the demo prints."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from scripted_core.cli import main
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

_ROOT = Path(__file__).resolve().parents[4]


def test_the_readme_shows_the_demos_own_picture_and_digest(capsys):
    example = _ROOT / "examples" / "retract_and_resume.py"
    with pytest.raises(SystemExit) as ended:
        main(["run", str(example), "--backend", "reference", "--view", "live"])
    printed = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    assert ended.value.code == 0
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"\n(request .*?invariants held.*?)\n```", readme, re.DOTALL)
    assert shown is not None
    for line in shown[1].splitlines():
        assert line in printed


def test_the_demo_shows_what_a_newcomer_is_promised(capsys):
    example = _ROOT / "examples" / "retract_and_resume.py"
    with pytest.raises(SystemExit):
        main(["run", str(example), "--backend", "reference", "--json"])
    (script,) = json.loads(capsys.readouterr().out)["scripts"]
    trace = script["trace"]
    under_pressure = [step for step in trace if step["held_pages"]]
    assert any("chunk" in step["states"].values() for step in trace)
    assert any("retracted" in step["states"].values() for step in under_pressure)
    ended = [rid for step in trace for rid, state in step["states"].items() if state == "finished"]
    assert len(ended) == 6
    assert script["checked"]["iterations"] == len(trace)
    assert script["checked"]["clients"] == 6

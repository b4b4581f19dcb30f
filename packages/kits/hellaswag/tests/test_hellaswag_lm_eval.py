"""`scorer=lm-eval`: lm-eval's task and scores over the kit's own client.

With the extra installed (`pip install 'lm-eval[api]'`) the last test runs lm-eval itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from scripted_core.errors import ConfigError, EngineDied
from scripted_kit_client import (
    Api,
    Outcome,
    Target,
    free_url,
    kill_process_tree,
    popen_launch_server,
)
from scripted_kit_hellaswag import HELLASWAG, HellaswagOptions, Scorer
from scripted_models import dataset
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=12, stage="reference", runner_config="cpu")

_ROWS = 12


@pytest.fixture(scope="module")
def server():
    url = free_url()
    process = popen_launch_server("tiny", url, backend="reference")
    yield Target(url=url)
    kill_process_tree(process.pid)


@pytest.fixture
def relabelled(tmp_path) -> Path:
    """The trained checkpoint's own rows, every third with a wrong label."""
    file = tmp_path / "rows.jsonl"
    lines = dataset("hellaswag").read_text(encoding="utf-8").splitlines()[:_ROWS]
    rows = [json.loads(line) for line in lines]
    for row in rows[::3]:
        row["label"] = (row["label"] + 1) % len(row["endings"])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class _Harness:
    """As much of lm-eval as the kit calls: it asks the model about a task's rows, and scores them."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def simple_evaluate(self, **asked: Any) -> dict[str, Any]:
        self.asked = asked
        (task,) = asked["tasks"]
        lines = Path(task["dataset_kwargs"]["data_files"]["validation"]).read_text().splitlines()
        right = 0
        for row in map(json.loads, lines):
            pairs = [(row["query"], " " + choice) for choice in row["choices"]]
            found = asked["model"].loglikelihood([SimpleNamespace(args=pair) for pair in pairs])
            scores = [value / len(c) for (value, _), c in zip(found, row["choices"], strict=True)]
            right += scores.index(max(scores)) == row["gold"]
        return {"results": {task["task"]: {"acc_norm,none": right / len(lines)}}}


@pytest.fixture
def harness(monkeypatch) -> _Harness:
    found = _Harness()
    package, api, model = (ModuleType(f"lm_eval{part}") for part in ("", ".api", ".api.model"))
    package.simple_evaluate = found.simple_evaluate
    model.LM = object
    for one in (package, api, model):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return found


def test_it_is_an_extra_that_is_asked_for_by_name(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ConfigError, match="lm-eval is not installed") as caught:
        HELLASWAG(server, options=HellaswagOptions(scorer=Scorer.LM_EVAL))
    assert "[lm-eval]" in str(caught.value.hint)


@pytest.mark.parametrize("api", [Api.GENERATE, Api.OPENAI])
def test_it_asks_through_the_kits_client_over_either_api(server, harness, relabelled, api):
    options = HellaswagOptions(scorer=Scorer.LM_EVAL, data=relabelled, floor=0.6, n_shot=2)
    report = HELLASWAG(Target(url=server.url, api=api), options=options)
    report.raise_for_outcome()
    assert report.figures["accuracy"] == pytest.approx(8 / 12)
    assert harness.asked["num_fewshot"] == 2


def test_a_server_that_is_gone_ends_it_as_that(server, harness, relabelled, monkeypatch):
    def die(**_: Any) -> None:
        raise EngineDied("gone")

    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", die)
    report = HELLASWAG(server, options=HellaswagOptions(scorer=Scorer.LM_EVAL, data=relabelled))
    assert report.outcome is Outcome.BROKEN
    assert report.error is not None
    assert report.error.code == "engine-died"


def test_a_data_set_that_cannot_be_had_says_what_to_give(server, harness, monkeypatch):
    def unreachable(**_: Any) -> None:
        raise ConnectionError("Couldn't reach 'Rowan/hellaswag' on the Hub")

    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", unreachable)
    with pytest.raises(ConfigError, match="Rowan/hellaswag") as caught:
        HELLASWAG(server, options=HellaswagOptions(scorer=Scorer.LM_EVAL))
    assert "data=FILE" in str(caught.value.hint)


def test_lm_eval_itself_finds_what_the_built_in_scorer_does(server, relabelled):
    pytest.importorskip(
        "lm_eval", reason="the extra scripted-kit-hellaswag[lm-eval] is not installed"
    )
    options = {"data": relabelled, "floor": 0.6}
    found = [
        HELLASWAG(
            Target(url=server.url, api=api),
            options=HellaswagOptions(scorer=scorer, **options, **more),
        )
        for api in (Api.GENERATE, Api.OPENAI)
        for scorer, more in ((Scorer.LM_EVAL, {}), (Scorer.BUILT_IN, {"normalize": "byte"}))
    ]
    for report in found:
        report.raise_for_outcome()
        assert report.figures["accuracy"] == pytest.approx(8 / 12)

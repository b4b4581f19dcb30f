"""Engine arguments on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_core.engine_args import parse_engine_args
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("page_size=16", {"page_size": 16}),
        ("--page-size=16", {"page_size": 16}),
        ("fraction=0.5", {"fraction": 0.5}),
        ("flag=true", {"flag": True}),
        ("flag=False", {"flag": False}),
        ("nothing=None", {"nothing": None}),
        ("model_path=a/b=c", {"model_path": "a/b=c"}),
        ("empty=", {"empty": ""}),
        ("sizes=[1, 2]", {"sizes": [1, 2]}),
    ],
)
def test_values_are_json_or_text(pair: str, expected: dict[str, Any]) -> None:
    assert parse_engine_args([pair]) == expected


@pytest.mark.parametrize("pair", ["page_size", "=16", "1x=2", "a b=3"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="name=value") as caught:
        parse_engine_args([pair])
    assert "page_size=16" in str(caught.value.hint)


def test_an_argument_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="page_size is given twice"):
        parse_engine_args(["page_size=16", "page-size=8"])

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_registry import (
    CiRunner,
    CiStage,
    ConfigError,
    EngineConfig,
    EngineMode,
    EngineSpec,
    ExhausterSpec,
    KitSpec,
    ReporterSpec,
    Violation,
    suite_name,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-3, max_value=3),
    st.floats(allow_nan=True),
    st.text(max_size=3),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
    ),
    max_leaves=6,
)


def config(**kwargs: Any) -> EngineConfig:
    return EngineConfig(engine="reference", kwargs=kwargs, mode=EngineMode.IN_PROCESS)


def reordered(value: Any) -> Any:
    """The same plain data, with every dict's items in the opposite order."""
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(list(value))}
    if isinstance(value, (list, tuple)):
        return type(value)(reordered(item) for item in value)
    return value


@given(st.dictionaries(st.text(min_size=1, max_size=3), VALUES, max_size=4))
def test_the_key_does_not_depend_on_order(kwargs: dict[str, Any]) -> None:
    one = EngineConfig(engine="e", kwargs=kwargs, mode=EngineMode.SERVER)
    other = EngineConfig(engine="e", kwargs=reordered(kwargs), mode=EngineMode.SERVER)
    assert one == other
    assert hash(one) == hash(other)
    assert one.key == other.key


@given(VALUES, VALUES)
def test_different_values_give_different_keys(first: Any, second: Any) -> None:
    # repr tells 1, 1.0 and True apart, as the key has to; dicts are compared in sorted order
    same = repr(_sorted(first)) == repr(_sorted(second))
    assert (config(a=first) == config(a=second)) is same


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return type(value)(_sorted(item) for item in value)
    return value


def test_engine_mode_and_seed_are_part_of_the_key() -> None:
    base = config(page_size=1)
    changes: list[dict[str, Any]] = [{"engine": "sglang"}, {"mode": EngineMode.SERVER}, {"seed": 1}]
    for change in changes:
        same: dict[str, Any] = {
            "engine": "reference",
            "kwargs": base.kwargs,
            "mode": base.mode,
        }
        changed = EngineConfig(**{**same, **change})
        assert changed != base
    assert base != "reference"
    assert len({config(a=1), config(a=1), config(a=True)}) == 2


def test_sets_and_paths_have_an_identity() -> None:
    assert config(a={3, 1, 2}) == config(a={2, 3, 1})
    assert config(a=Path("x")) == config(a=Path("x"))
    assert config(a=Path("x")) != config(a="x")


def test_later_changes_do_not_reach_the_configuration() -> None:
    kwargs: dict[str, Any] = {"lora_paths": ["a"], "extra": {"x": [1]}}
    made = EngineConfig(engine="reference", kwargs=kwargs, mode=EngineMode.IN_PROCESS)
    kwargs["lora_paths"].append("b")
    kwargs["extra"]["x"].append(2)
    kwargs["more"] = 1
    assert made.kwargs == {"lora_paths": ["a"], "extra": {"x": [1]}}
    with pytest.raises(TypeError):
        made.kwargs["more"] = 1  # type: ignore[index]


def test_a_value_without_identity_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"argument 'buffer'.*bytearray"):
        config(buffer=[bytearray(b"x")])


def test_a_mode_may_be_given_as_its_value_and_an_unknown_one_is_refused() -> None:
    made = EngineConfig(engine="reference", kwargs={}, mode="server")  # type: ignore[arg-type]
    assert made.mode is EngineMode.SERVER
    with pytest.raises(ConfigError, match="'remote' is not a mode") as caught:
        EngineConfig(engine="reference", kwargs={}, mode="remote")  # type: ignore[arg-type]
    assert caught.value.hint is not None
    assert "in_process, server" in caught.value.hint


def test_argument_names_are_strings() -> None:
    with pytest.raises(ConfigError, match="argument name 3"):
        EngineConfig(
            engine="reference",
            kwargs={3: 1},  # type: ignore[dict-item]
            mode=EngineMode.SERVER,
        )


def _make(cls: Any, name: str) -> object:
    more: dict[type, dict[str, Any]] = {
        EngineSpec: {"modes": (EngineMode.SERVER,)},
        ExhausterSpec: {"factory": print},
        KitSpec: {"run": print},
        ReporterSpec: {"factory": print},
        CiRunner: {"labels": ()},
        CiStage: {"runner": "cpu", "command": "true"},
    }
    return cls(name=name, summary="", **more[cls])


@pytest.mark.parametrize(
    "cls", [EngineSpec, ExhausterSpec, KitSpec, ReporterSpec, CiRunner, CiStage]
)
@pytest.mark.parametrize("name", ["", "two words", "a,b", "-x", "a/b", "a\n"])
def test_names_that_cannot_be_typed_are_refused(cls: type, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of"):
        _make(cls, name)


@pytest.mark.parametrize("name", ["kv_pool", "1-gpu-h100", "v0.5"])
def test_usual_names_are_taken(name: str) -> None:
    spec = _make(EngineSpec, name)
    assert isinstance(spec, EngineSpec)
    assert spec.name == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]


def test_an_engine_needs_modes_and_the_first_is_the_default() -> None:
    spec = EngineSpec(name="e", summary="", modes=(EngineMode.SERVER, EngineMode.IN_PROCESS))
    assert spec.default_mode is EngineMode.SERVER
    for modes in ((), ("server",)):
        with pytest.raises(ConfigError, match="modes is"):
            EngineSpec(name="e", summary="", modes=modes)  # type: ignore[arg-type]


def test_a_stage_names_its_suite_and_keeps_its_environment() -> None:
    env = {"A": "1"}
    stage = CiStage(name="base", runner="cpu", summary="", command="true", env=env)
    env["A"] = "2"
    assert stage.suite == "base-test-cpu" == suite_name(stage="base", runner_config="cpu")
    assert stage.env == {"A": "1"}


def test_a_runner_has_no_negative_gpus() -> None:
    with pytest.raises(ConfigError, match="gpus is -1"):
        CiRunner(name="r", summary="", labels=(), gpus=-1)


def test_a_violation_is_plain_data() -> None:
    violation = Violation(step=3, code="double-free", message="freed twice", subject="page 7")
    assert violation.owners == ()
    assert violation == dataclasses.replace(violation)

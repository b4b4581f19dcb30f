"""Collecting what plugins register: one kind at a time, each thing with its distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from scripted_registry._ask import Answer
from scripted_registry._contract import describe
from scripted_registry._nearest import listed, nearest
from scripted_registry._settings import DISABLE
from scripted_registry.errors import PluginConflict, PluginContractError, PluginNotFound
from scripted_registry.specs import (
    CiRunner,
    CiStage,
    EngineSpec,
    ExhausterSpec,
    KitSpec,
    ReporterSpec,
)

S = TypeVar("S", EngineSpec, ExhausterSpec, KitSpec, ReporterSpec, CiRunner, CiStage)


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[S]):
    """One kind of registered thing: the hook that asks for it and what names it."""

    noun: str
    hook: str
    spec: type[S]
    name_of: Callable[[S], str]


ENGINES = Kind(
    noun="engine", hook="scripted_register_engines", spec=EngineSpec, name_of=lambda s: s.name
)
EXHAUSTERS = Kind(
    noun="exhauster",
    hook="scripted_register_exhausters",
    spec=ExhausterSpec,
    name_of=lambda s: s.name,
)
KITS = Kind(noun="kit", hook="scripted_register_kits", spec=KitSpec, name_of=lambda s: s.name)
REPORTERS = Kind(
    noun="reporter",
    hook="scripted_register_reporters",
    spec=ReporterSpec,
    name_of=lambda s: s.name,
)
CI_RUNNERS = Kind(
    noun="CI runner",
    hook="scripted_register_ci_runners",
    spec=CiRunner,
    name_of=lambda s: s.name,
)
CI_STAGES = Kind(
    noun="CI stage", hook="scripted_register_ci_stages", spec=CiStage, name_of=lambda s: s.suite
)

# Where the engines that are published with this project come from. Only a convenience of the
# message: an engine of anybody else needs no entry here.
_PUBLISHED_ENGINES = {
    "reference": "pip install 'scripted-core[reference]'",
    "sglang": "pip install 'scripted-core[sglang]'",
    "vllm": "pip install 'scripted-core[vllm]'",
}


def collect(kind: Kind[S], answers: Iterable[Answer]) -> dict[str, S]:
    """Return what was registered by name, each with its distribution filled in.

    Raises `PluginContractError` for an answer of a wrong type and `PluginConflict` for a name that
    is registered twice.
    """
    collected: dict[str, S] = {}
    for distribution, answer in answers:
        for spec in checked_list(distribution, kind.hook, answer, kind.spec):
            name = kind.name_of(spec)
            if name in collected:
                raise _conflict(kind.noun, name, collected[name].distribution or "?", distribution)
            collected[name] = replace(spec, distribution=distribution)
    return collected


def checked_list(distribution: str, hook: str, answer: object, item_type: type[Any]) -> list[Any]:
    """Return the items that a hook answered; `PluginContractError` when they are of wrong types."""
    wanted = f"a list of {item_type.__name__}"
    if not isinstance(answer, (list, tuple)):
        raise PluginContractError(
            f"{distribution}: {hook} returned {describe(answer)}", hint=f"return {wanted}"
        )
    for item in answer:
        if not isinstance(item, item_type):
            raise PluginContractError(
                f"{distribution}: {hook} returned a list with {describe(item)}",
                hint=f"return {wanted}",
            )
    return list(answer)


def _conflict(noun: str, name: str, first: str, second: str) -> PluginConflict:
    if first == second:
        return PluginConflict(
            f"{first} registers {noun} {name!r} twice",
            hint="give one of them another name",
        )
    return PluginConflict(
        f"{noun} {name!r} is registered by {first} and by {second}",
        hint=f"uninstall one of them, or leave it out: {DISABLE}={second}",
    )


def check_stage_runners(stages: Mapping[str, CiStage], runners: Mapping[str, CiRunner]) -> None:
    """Raise `PluginContractError` for a stage on a kind of runner that nobody registers."""
    for stage in stages.values():
        if stage.runner in runners:
            continue
        match = nearest(stage.runner, runners)
        raise PluginContractError(
            f"{stage.distribution}: CI stage {stage.name!r} is for runner {stage.runner!r}, which "
            f"nobody registers; there are: {listed(runners)}",
            hint=f"did you mean {match!r}?"
            if match
            else "register it through scripted_register_ci_runners",
        )


def look_up(kind: Kind[S], name: str, registered: Mapping[str, S], *, disabled: Iterable[str]) -> S:
    """Return the one called `name`; `PluginNotFound` says what there is and what to install."""
    if name in registered:
        return registered[name]
    hints = []
    match = nearest(name, registered)
    if match:
        hints.append(f"did you mean {match!r}?")
    if kind is ENGINES and name in _PUBLISHED_ENGINES:
        hints.append(_PUBLISHED_ENGINES[name])
    elif not match:
        hints.append(f"pip install the distribution that provides the {kind.noun}")
    left_out = listed(disabled)
    if left_out != "none":
        hints.append(f"{DISABLE} leaves out: {left_out}")
    raise PluginNotFound(
        f"no {kind.noun} is called {name!r}; installed: {listed(registered)}",
        hint="; ".join(hints),
    )

"""Engine configurations as axes, and a small selection of cases that covers every pair of choices.

Three or more axes multiply quickly. Most faults need one choice or two together, so the default run
takes a pairwise covering selection (R. Mandl, "Orthogonal Latin squares", CACM 28, 1985); the full
product is for nights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import combinations, product
from typing import Any

from scripted_core.errors import ConfigError
from scripted_registry import EngineMode, get_plugin_manager

from scripted_backend_single.arguments import PAGE_TOKENS

_EMBEDDED = "reference"


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One value of an axis: what it adds to the engine's arguments, or to the name of the backend.

    ``missing`` says what is not installed here and keeps the choice from running.
    """

    label: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    missing: str | None = None


Axis = Sequence[Choice]


@dataclass(frozen=True)
class Configuration:
    """One choice from each axis: one engine."""

    choices: tuple[Choice, ...]

    @property
    def label(self) -> str:
        """The labels of the choices."""
        return "-".join(choice.label for choice in self.choices)

    @property
    def kwargs(self) -> dict[str, Any]:
        """Engine arguments of all choices together."""
        return {name: value for choice in self.choices for name, value in choice.kwargs.items()}

    @property
    def backend(self) -> str | None:
        """The backend that a choice asks for; ``None`` for the one that the test run has chosen."""
        return next((c.backend for c in self.choices if c.backend is not None), None)

    @property
    def missing(self) -> str | None:
        """What keeps it from running here; ``None`` when nothing does."""
        return next((c.missing for c in self.choices if c.missing is not None), None)


@dataclass(frozen=True)
class Case:
    """One scenario under one pressure on one engine, by name."""

    scenario: str
    pressure: str
    configuration: Configuration

    @property
    def label(self) -> str:
        """For a test id."""
        return f"{self.configuration.label}-{self.pressure}-{self.scenario}"


def engine_axes(backend: str | None, *, full: bool = False) -> list[Axis]:
    """The axes of the engine called ``backend`` (``None``: the embedded one).

    Page size on every engine; on the embedded one also overlap, model, and process: ``NAME:server``
    fixes the last. SGLang overlaps by default, and with ``full`` also does not. What is an engine's
    default is no argument, so that scripts without it share the server.
    """
    name, _, mode = (backend or _EMBEDDED).partition(":")
    pages: Axis = [
        Choice(label="page1"),
        Choice(label=f"page{PAGE_TOKENS}", kwargs={"page_size": PAGE_TOKENS}),
    ]
    overlaps: Axis = [
        Choice(label="overlap", kwargs={"disable_overlap_schedule": False}),
        Choice(label="serial", kwargs={"disable_overlap_schedule": True}),
    ]
    if name == "sglang":
        overlaps = [Choice(label="overlap"), overlaps[1]]
        return [pages, overlaps if full else overlaps[:1]]
    if name != _EMBEDDED:
        return [pages]
    models: Axis = [
        Choice(label="hash", kwargs={"model_path": "hash"}),
        Choice(label="tiny", kwargs={"model_path": "tiny"}, missing=_missing_for_tiny()),
    ]
    axes = [pages, overlaps, models]
    if not mode and EngineMode.SERVER in get_plugin_manager().engine(name).modes:
        server = f"{name}:{EngineMode.SERVER.value}"
        axes.append([Choice(label="inproc", backend=name), Choice(label="server", backend=server)])
    return axes


def all_configurations(axes: Sequence[Axis]) -> list[Configuration]:
    """The full product."""
    return [Configuration(choices) for choices in product(*axes)]


def pairwise_configurations(axes: Sequence[Axis]) -> list[Configuration]:
    """Few configurations in which every two choices of two axes meet; the same ones every time.

    Greedy: each is the one that brings most new pairs, the first of several in the order of the
    product.
    """
    everything = all_configurations(axes)
    open_pairs = set().union(*(_pairs(one) for one in everything))
    chosen: list[Configuration] = []
    while open_pairs or not chosen:
        best = max(everything, key=lambda one: len(_pairs(one) & open_pairs))
        chosen.append(best)
        open_pairs -= _pairs(best)
    return chosen


def all_cases(
    scenarios: Sequence[str], pressures: Sequence[str], configurations: Sequence[Configuration]
) -> list[Case]:
    """Every scenario under every pressure on every engine, engine by engine."""
    return [Case(s, p, one) for one in configurations for s in scenarios for p in pressures]


def covering_cases(
    scenarios: Sequence[str], pressures: Sequence[str], configurations: Sequence[Configuration]
) -> list[Case]:
    """Every scenario under every pressure once, engine by engine, and both on every engine.

    The engine of the i-th scenario under the j-th pressure has the number i + j, modulo their count: a
    cyclic Latin rectangle. Raises ``ConfigError`` when there are fewer scenarios or pressures than
    engines, since some would then never meet.
    """
    count = len(configurations)
    if min(len(scenarios), len(pressures)) < count:
        raise ConfigError(
            f"{count} configurations cannot all meet {len(scenarios)} scenarios and "
            f"{len(pressures)} pressures",
            hint="give all_cases, or fewer configurations",
        )
    return [
        Case(scenario, pressure, configuration)
        for number, configuration in enumerate(configurations)
        for i, scenario in enumerate(scenarios)
        for j, pressure in enumerate(pressures)
        if (i + j) % count == number
    ]


def _pairs(configuration: Configuration) -> set[tuple[int, str, int, str]]:
    numbered = list(enumerate(choice.label for choice in configuration.choices))
    return {(*one, *other) for one, other in combinations(numbered, 2)}


def _missing_for_tiny() -> str | None:
    if find_spec("torch") is None:
        return "torch is not installed"
    if find_spec("scripted_models") is None:
        return "scripted-models, which holds the checkpoint 'tiny', is not installed"
    return None

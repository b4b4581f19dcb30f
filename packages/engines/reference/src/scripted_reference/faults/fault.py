"""What a seeded fault is, and how it gets into a live engine."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

from scripted_registry.errors import ConfigError

from scripted_reference.admission import PrefillAdder
from scripted_reference.args import SMALL_SWA_MODEL
from scripted_reference.batching import BatchBuilder
from scripted_reference.engine import Engine
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler

_Variant = TypeVar("_Variant", bound=type[Any])


class Area(StrEnum):
    """Which part of the engine is broken."""

    SCHEDULING = "scheduling"
    MEMORY = "memory"
    PREFIX_TREE = "prefix tree"
    OVERLAP = "overlap"
    OUTPUTS = "outputs"
    WINDOWS = "sliding windows"
    PIPELINE = "pipeline"
    PAIR = "prefill/decode pair"
    SPECULATION = "speculation"

    @property
    def scripts(self) -> Path:
        """Where the scripts are that look there."""
        if self is Area.SPECULATION:
            return Path("packages/engines/reference/tests/test_reference_ngram.py")
        topology = {Area.WINDOWS: "swa", Area.PIPELINE: "pp", Area.PAIR: "pd"}
        return Path("packages/backends") / topology.get(self, "single") / "tests"

    @property
    def engine_kwargs(self) -> dict[str, Any]:
        """The arguments without which an engine has no such part."""
        if self is Area.WINDOWS:
            return {"model_path": SMALL_SWA_MODEL, "chunked_prefill_size": 64}
        needed: dict[Area, dict[str, Any]] = {
            Area.PIPELINE: {"pp_size": 2},
            Area.PAIR: {"disaggregation_mode": "pair"},
            Area.SPECULATION: {"speculative_algorithm": "NGRAM"},
        }
        return needed.get(self, {})


class FaultNotHere(ConfigError):
    """An engine of these arguments does not have the part that a fault breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One mistake that an engine can be started with.

    Attributes:
        name: what `inject_fault` takes.
        area: the part of the engine that it is in.
        summary: what goes wrong, in a sentence.
        stands_for: where real engines have had, or invite, such a mistake.
        variant: a subclass of the class that it breaks, with one method overridden.
        out_of_reach: what a script that finds it would need; empty for most.
    """

    name: str
    area: Area
    summary: str
    stands_for: str
    variant: type[Any]
    out_of_reach: str = ""

    @property
    def base(self) -> type[Any]:
        """The class whose objects become `variant`."""
        base: type[Any] = self.variant.__mro__[1]
        return base

    @property
    def place(self) -> str:
        """The one method that is replaced, as `Class.method`."""
        (method,) = (
            name
            for name, member in vars(self.variant).items()
            if inspect.isfunction(member) or isinstance(member, property)
        )
        return f"{self.base.__name__}.{method}"


_FAULTS: Final[dict[str, Fault]] = {}


def seeded(
    name: str, area: Area, *, stands_for: str, out_of_reach: str = ""
) -> Callable[[_Variant], _Variant]:
    """Put a class into the catalogue; its docstring is the summary."""

    def register(variant: _Variant) -> _Variant:
        assert name not in _FAULTS, f"two faults are called {name!r}"
        summary = " ".join((variant.__doc__ or "").split())
        _FAULTS[name] = Fault(
            name=name,
            area=area,
            summary=summary,
            stands_for=stands_for,
            variant=variant,
            out_of_reach=out_of_reach,
        )
        return variant

    return register


def registered() -> list[Fault]:
    """Every fault of the modules that have been imported."""
    return list(_FAULTS.values())


def named(name: object, faults: Mapping[str, Fault]) -> Fault:
    """Return the fault of this name; `ConfigError` with the nearest one otherwise."""
    if isinstance(name, str) and name in faults:
        return faults[name]
    near = difflib.get_close_matches(str(name), faults, n=1)
    raise ConfigError(
        f"engine argument inject_fault={name!r} names no seeded fault",
        hint=f"did you mean {near[0]!r}?"
        if near
        else "python -m scripted_reference.faults --list shows them",
    )


def install(fault: Fault, engine: Engine) -> None:
    """Break a fresh engine, in each of its replicas.

    The objects concerned change their class, so that an engine without a fault runs not one
    instruction more for it. What is made anew for each batch changes it when it is made.
    """
    if fault.base is PrefillAdder:
        _swap(engine, BatchBuilder, _adders_of(fault.variant))
    elif fault.base is ScheduleBatch:
        _swap(engine, Scheduler, _decode_batches_of(fault.variant))
    else:
        _swap(engine, fault.base, fault.variant)


def _swap(engine: Engine, base: type[Any], variant: type[Any]) -> None:
    found = [part for part in _parts(engine) if type(part) is base]
    if not found:
        raise FaultNotHere(
            f"engine argument inject_fault: no part of this engine is a {base.__name__}",
            hint="give the arguments of an engine that has one",
        )
    for part in found:
        part.__class__ = variant


def _parts(engine: Engine) -> Iterator[Any]:
    yield engine
    yield from engine.extra_parts()
    for scheduler in engine.all_schedulers():
        yield from (scheduler, scheduler.model)
        yield from (scheduler.control, scheduler.departures, scheduler.results, scheduler.batches)
        memory = scheduler.memory
        yield from (scheduler.in_flight, memory, memory.allocator, memory.rows, memory.tree_cache)
        yield memory.holds


def _adders_of(variant: type[Any]) -> type[BatchBuilder]:
    class WithFaultyAdder(BatchBuilder):
        def make_adder(self) -> PrefillAdder:
            adder = super().make_adder()
            adder.__class__ = variant
            return adder

    return WithFaultyAdder


def _decode_batches_of(variant: type[Any]) -> type[Scheduler]:
    class WithFaultyBatch(Scheduler):
        def set_running(self, reqs: list[Req]) -> None:
            super().set_running(reqs)
            self.running_batch.__class__ = variant

    return WithFaultyBatch

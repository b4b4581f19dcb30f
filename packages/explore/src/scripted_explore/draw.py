"""Programs drawn from a seed: the fast way in, for the millions that are run only once.

Each draws a *swarm* (Groce et al., "Swarm Testing", ISSTA 2012): a subset of the operations and how
often each comes, so that one program is all about pauses and the next one knows none.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

from scripted_explore import operations as o
from scripted_explore.program import Program
from scripted_explore.space import Topology

_LENGTHS: Final = (6, 12, 24, 40)
_ALWAYS: Final = (o.Start, o.Steps)
_SHARES: Final = (0.45, 0.45, 0.2)
"""How much of the operations a program knows. What takes three calls in one order wants few others."""
_BELONG: Final[dict[type[o.Op], type[o.Op]]] = {
    o.Pause: o.Continue,
    o.ExhaustKv: o.Release,
    o.ExhaustRows: o.Release,
    o.ExhaustLocks: o.Release,
    o.PauseSide: o.ContinueSide,
}
"""What undoes an operation is there where the operation is."""
_RARE: Final = frozenset({o.AbortAll, o.Flush, o.EvictAll, o.AbortNobody, o.Settle})
_PACES: Final = (None, None, None, None, o.Settle(), o.UntilEnd(all_of_them=1))
_WAITS: Final = frozenset({o.Steps, o.Settle, o.UntilEnd})
PER_ENGINE: Final = 12
"""Programs in a row that share their engine's arguments."""


def draw_program(topologies: Sequence[Topology], *, seed: int, number: int) -> Program:
    """Program ``number`` of a campaign: the same one for the same topologies and seed."""
    shared = random.Random(f"engine {seed} {number // PER_ENGINE}")
    topology = shared.choices(topologies, [one.weight for one in topologies])[0]
    kwargs: dict[str, Any] = dict(topology.base)
    for name, values in topology.axes.items():
        kwargs[name] = shared.choice(values)
    rng = random.Random(f"program {seed} {number}")
    return Program(topology.name, kwargs, tuple(_draw_ops(topology, rng)))


def _draw_ops(topology: Topology, rng: random.Random) -> list[Any]:
    fields = topology.fields
    share = rng.choice(_SHARES)
    chosen = [kind for kind in fields if kind in _ALWAYS or rng.random() < share]
    for kind, undoing in _BELONG.items():
        if kind in chosen and undoing not in chosen:
            chosen.append(undoing)
    weights = [_weight(kind, rng) for kind in chosen]
    # A program also keeps to a few of the values of each field.
    subset = {kind: _swarm_of_values(fields[kind], rng) for kind in chosen}
    pace = rng.choice(_PACES)
    ops = []
    for kind in rng.choices(chosen, weights, k=rng.choice(_LENGTHS)):
        op = kind(**{name: rng.choice(values) for name, values in subset[kind].items()})
        ops.append(op)
        # Mostly an iteration goes by; sometimes two calls meet in one. Some programs are calm: requests
        # mostly come to their end, so that much is done to an engine that has just become idle.
        if pace is not None and kind is o.Start and rng.random() < 0.5:
            ops.append(pace)
        elif kind not in _WAITS and rng.random() < 0.7:
            ops.append(o.Steps(1))
    return ops


def _weight(kind: type[o.Op], rng: random.Random) -> float:
    if kind is o.Start:
        return rng.choice((3.0, 6.0, 9.0))
    if kind is o.Steps:
        return rng.choice((1.0, 4.0))
    return rng.choice((0.5, 1.0, 3.0)) * (0.5 if kind in _RARE else 1.0)


def _swarm_of_values(fields: Mapping[str, Sequence[Any]], rng: random.Random) -> dict[str, Any]:
    return {
        name: values if rng.random() < 0.5 else rng.choices(values, k=2)
        for name, values in fields.items()
    }

"""Programs as a Hypothesis strategy: what a test draws them from, and what shrinks a finding.

Every choice is one whole number, the place of a value among those that its field can have. So a
program that was drawn elsewhere can be told to Hypothesis as a list of numbers: see ``shrink``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from scripted_explore import operations as o
from scripted_explore.program import Program
from scripted_explore.space import Topology

LONGEST = 160
"""Operations in a program at most."""


def programs(topology: Topology, *, fixed: Program | None = None) -> st.SearchStrategy[Program]:
    """Programs of a topology; with ``fixed``, those whose numbers are among its own or plainer."""
    kinds = list(topology.fields)
    operations = st.integers(0, len(kinds) - 1).flatmap(
        lambda place: _operation(kinds[place], topology)
    )
    axes = st.tuples(*(_place(values) for values in topology.axes.values()))
    return st.builds(
        lambda places, ops: Program(topology.name, _kwargs(topology, places, fixed), tuple(ops)),
        axes,
        st.lists(operations, max_size=LONGEST),
    )


def choices_of(program: Program, topology: Topology) -> tuple[list[int], list[list[int]]]:
    """The numbers that ``programs`` draws for a program: of its engine, and of each operation."""
    kinds = list(topology.fields)
    engine = [
        list(values).index(program.kwargs[name])
        for name, values in topology.axes.items()
        if len(values) > 1
    ]
    ops = [
        [
            kinds.index(type(op)),
            *(
                list(values).index(getattr(op, name))
                for name, values in topology.fields[type(op)].items()
                if len(values) > 1
            ),
        ]
        for op in program.ops
    ]
    return engine, ops


def _place(values: Sequence[Any]) -> st.SearchStrategy[int]:
    return st.integers(0, len(values) - 1)


def _operation(kind: type[o.Op], topology: Topology) -> st.SearchStrategy[Any]:
    fields = topology.fields[kind]
    return st.tuples(*(_place(values) for values in fields.values())).map(
        lambda places: kind(
            **{
                name: values[place]
                for (name, values), place in zip(fields.items(), places, strict=True)
            }
        )
    )


def _kwargs(topology: Topology, places: Sequence[int], fixed: Program | None) -> dict[str, Any]:
    kwargs = dict(topology.base if fixed is None else fixed.kwargs)
    for (name, values), place in zip(topology.axes.items(), places, strict=True):
        kwargs[name] = values[place]
    return kwargs

"""Programs: drawn from a seed, written as JSON, told to Hypothesis, and made small."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from scripted_core.capabilities import Capability
from scripted_core.errors import ConfigError
from scripted_core.views import PauseMode
from scripted_explore.draw import draw_program
from scripted_explore.operations import (
    Abort,
    Flush,
    MoveKv,
    Pause,
    Start,
    Steps,
    as_code,
    is_possible,
)
from scripted_explore.program import Program, program_from_json
from scripted_explore.shrink import shrink, size
from scripted_explore.space import topologies
from scripted_explore.strategies import programs
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="explore", runner_config="cpu")

SINGLE = topologies("reference", ["single"])
ALL = topologies("reference")


def test_a_seed_and_a_number_are_one_program() -> None:
    first = [draw_program(ALL, seed=3, number=n) for n in range(60)]
    assert [draw_program(ALL, seed=3, number=n) for n in range(60)] == first
    assert [draw_program(ALL, seed=4, number=n) for n in range(60)] != first
    assert len({program.topology for program in first}) > 1


def test_a_swarm_leaves_kinds_of_operations_out() -> None:
    kinds = [
        frozenset(type(op) for op in draw_program(SINGLE, seed=0, number=n).ops) for n in range(80)
    ]
    assert any(Pause in one and Flush not in one for one in kinds)
    assert any(Flush in one and Pause not in one for one in kinds)


def test_a_program_survives_json() -> None:
    for number in range(40):
        program = draw_program(ALL, seed=1, number=number)
        assert program_from_json(program.as_json()) == program


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(SINGLE[0]))
def test_what_hypothesis_draws_is_of_the_topology(program: Program) -> None:
    for name, value in program.kwargs.items():
        assert value in SINGLE[0].axes.get(name, (SINGLE[0].base.get(name),))
    assert {type(op) for op in program.ops} <= SINGLE[0].fields.keys()


def test_shrinking_keeps_what_is_needed_and_makes_it_plain() -> None:
    program = draw_program(SINGLE, seed=0, number=17)
    assert len(program.ops) > 20
    assert any(isinstance(op, Abort) for op in program.ops)

    def fails(candidate: Program) -> bool:
        aborts = [op for op in candidate.ops if isinstance(op, Abort)]
        starts = [op for op in candidate.ops if isinstance(op, Start) and op.new_tokens > 2]
        return bool(starts) and (bool(aborts) or len(candidate.ops) > 20)

    small = shrink(program, SINGLE[0], fails=fails, timeout_s=30)
    assert fails(small)
    assert size(small, SINGLE[0]) < size(program, SINGLE[0])
    assert len(small.ops) == 2
    (start,) = (op for op in small.ops if isinstance(op, Start))
    assert (start.new_tokens, start.family, start.shared) == (3, 0, 0)


def test_who_is_told_to_end_while_shrinking_ends() -> None:
    program = draw_program(SINGLE, seed=0, number=17)

    def fails(candidate: Program) -> bool:
        if not candidate.ops:  # the plainest program, which Hypothesis tries by itself
            raise KeyboardInterrupt
        return len(candidate.ops) == len(program.ops)

    with pytest.raises(KeyboardInterrupt):
        shrink(program, SINGLE[0], fails=fails, timeout_s=30)


def test_operations_are_source_and_need_capabilities() -> None:
    op = Start(family=0, shared=5, own=1, own_tokens=2, new_tokens=3)
    assert as_code(op) == "Start(family=0, shared=5, own=1, own_tokens=2, new_tokens=3)"
    assert eval(as_code(op, defaults=True), {"Start": Start}) == op
    assert as_code(Pause(mode=PauseMode.IN_PLACE)) == "Pause(mode=PauseMode.IN_PLACE)"
    assert not is_possible(Flush(), frozenset())
    assert is_possible(Flush(), frozenset({Capability.PREFIX_CACHE}))
    assert not is_possible(Pause(PauseMode.RETRACT), frozenset({Capability.PAUSE_IN_PLACE}))
    assert is_possible(Steps(1), frozenset())
    assert MoveKv in topologies("reference", ["pd"])[0].fields


def test_an_unknown_topology_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no topology 'ring'"):
        topologies("reference", ["ring"])
    assert topologies("engine-of-tomorrow")[0].name == "default"

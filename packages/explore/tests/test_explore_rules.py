"""Single rules on the shortest program that shows what each is for, on an engine with a seeded fault."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_core.views import PauseMode
from scripted_explore.laboratory import Laboratory
from scripted_explore.operations import (
    Abort,
    AbortAll,
    Continue,
    EvictPrefix,
    Flush,
    Pause,
    Settle,
    Start,
    Steps,
    UntilEnd,
)
from scripted_explore.program import Program
from scripted_explore.sometimes import Sometimes
from scripted_explore.space import topologies
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="explore", runner_config="cpu")

(SINGLE,) = topologies("reference", ["single"])
SHORT = Start(family=0, shared=0, own=0, own_tokens=1, new_tokens=1)
SHARED = Start(family=1, shared=5, own=0, own_tokens=1, new_tokens=1)
SIBLING = EvictPrefix(family=1, shared=1, own=0, own_tokens=1)


@pytest.mark.parametrize(
    ("fault", "found", "ops", "kwargs"),
    [
        ("siblings-evicted", "rule: evict", (SHARED, Settle(), SIBLING, Steps(1)), {}),
        (
            "flush-while-in-flight",
            "rule: flush",
            (SHORT, UntilEnd(all_of_them=1), Flush(), Steps(1)),
            {"disable_overlap_schedule": False},
        ),
        ("abort-of-waiting-not-reported", "rule: abort", (SHORT, Abort(which=0)), {}),
    ],
)
def test_a_rule_sees_what_it_is_for(
    fault: str, found: str, ops: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    plain = {name: values[0] for name, values in SINGLE.axes.items()}
    program = Program("single", {**SINGLE.base, **plain, **kwargs}, ops)
    with Laboratory("reference", (SINGLE,)) as sound:
        assert sound.run(program).signature is None
    with Laboratory("reference", (SINGLE,), extra={"inject_fault": fault}) as broken:
        assert str(broken.run(program).signature) == found
        # The engine that failed is replaced: the next run does not have to wait for its clients.
        assert str(broken.run(program).signature) == found
        assert broken.starts == 3  # one for undisturbed runs


def test_a_request_after_a_long_rest_is_not_stuck() -> None:
    # The decode engine of a pair runs its first batch an iteration later than a lone engine.
    (pair,) = topologies("reference", ["pd"])
    with Laboratory("reference", (pair,)) as laboratory:
        run = laboratory.run(Program("pd", dict(pair.base), (Steps(70), SHORT, Steps(1))))
    assert run.signature is None


@pytest.mark.parametrize("steps", range(1, 7))
def test_an_abort_while_paused_in_place_meets_kv_that_arrives(steps: int) -> None:
    # The second pause lets the prefill engine go on with what is on its way, the aborted one included.
    (pair,) = topologies("reference", ["pd"])
    start = Start(family=0, shared=32, own=0, own_tokens=1, new_tokens=1)
    in_place, retract = Pause(PauseMode.IN_PLACE), Pause(PauseMode.RETRACT)
    ops = (start, Steps(steps), in_place, AbortAll(), retract, Steps(1))
    with Laboratory("reference", (pair,)) as laboratory:
        assert laboratory.run(Program("pd", dict(pair.base), ops)).signature is None


def test_a_retraction_that_is_over_in_its_iteration_has_processed_what_was_in_flight() -> None:
    # So the pause in place behind it sees a request end by itself.
    (single,) = topologies("reference", ["single"])
    kwargs = {**single.base, "disable_overlap_schedule": False}
    in_place, retract = Pause(PauseMode.IN_PLACE), Pause(PauseMode.RETRACT)
    start = Start(family=0, shared=0, own=0, own_tokens=1, new_tokens=1)
    ops = (start, Steps(1), retract, Continue(), in_place, Steps(1))
    with Laboratory("reference", (single,)) as laboratory:
        assert laboratory.run(Program("single", kwargs, ops)).signature is None


def test_a_prompt_that_is_prefilled_again_is_one_hit_more() -> None:
    # The pool of the window is too small for all three: the second gives way, and comes again.
    (swa,) = topologies("reference", ["swa"])
    kwargs = {**swa.base, "swa_full_tokens_ratio": 0.4, "page_size": 16}
    ops = (
        Start(family=1, shared=16, own=0, own_tokens=16, new_tokens=2),
        Start(family=1, shared=16, own=0, own_tokens=60, new_tokens=3),
        Start(family=1, shared=32, own=0, own_tokens=16, new_tokens=2),
        UntilEnd(all_of_them=1),
    )
    with Laboratory("reference", (swa,)) as laboratory:
        run = laboratory.run(Program("swa", kwargs, ops))
    assert run.signature is None
    assert run.report.sometimes[Sometimes.RETRACTION_UNDER_PRESSURE] == 1


def test_waiting_for_an_end_leaves_an_engine_that_is_not_idle_yet() -> None:
    kwargs = {**SINGLE.base, "disable_overlap_schedule": False}
    long = Start(family=0, shared=0, own=0, own_tokens=2, new_tokens=16)
    seen = {}
    with Laboratory("reference", (SINGLE,)) as laboratory:
        for name, wait in (
            ("next", UntilEnd()),
            ("all", UntilEnd(all_of_them=1)),
            ("idle", Settle()),
        ):
            ops = (SHORT, long, wait, Abort(which=0), Flush(), Steps(1))
            run = laboratory.run(Program("single", kwargs, ops))
            assert run.signature is None
            nobody_to_abort = bool(run.report.passed_over)
            refused = run.report.sometimes.get("a flush was refused", 0)
            seen[name] = (nobody_to_abort, refused)
    # While one request lives, and while the last batch is in flight, a flush is refused.
    assert seen == {"next": (False, 1), "all": (True, 1), "idle": (True, 0)}

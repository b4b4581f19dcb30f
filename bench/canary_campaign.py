"""The scripts that measure the canary: broken slots of one kind after the other, and clean ones."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scripted_canary.perturb import Perturbation, PerturbKind
from scripted_canary.settings import RealData
from scripted_canary.violations import Reason
from scripted_core import InProcessSession, ScriptedContext

from bench.canary_load import Fate, Load, Witness, is_free, witnessed

Tick = Callable[[int], object]
SWEEP_INTERVAL: Final = 8
_SIZES: Final[dict[str, Any]] = {
    "max_total_tokens": 768,
    "context_length": 256,
    "chunked_prefill_size": 32,
}
_WAIT_FORWARDS: Final = 64
"""A slot that nobody has read, written or given back by then is a miss."""
TOPOLOGIES: Final[dict[str, dict[str, Any]]] = {
    "one device": {},
    "pages of 8": {"page_size": 8},
    "overlap": {"disable_overlap_schedule": False},
    "two stages": {"pp_size": 2},
    "a window": {"json_model_override_args": {"sliding_window": 32}},
    "a pair": {"disaggregation_mode": "pair"},
}


@dataclass
class Campaign:
    """What became of the perturbations of one kind.

    Attributes:
        fates: how many ended how.
        found_by: how many were found by a forward, and how many by a sweep.
        steps: forwards until each was found; 0 for the forward before which, or behind which, it broke.
        lost: seeds of those that ended in another way, with how.
        false_alarms: reports of slots, tokens or rows that nothing was done to.
        verified_slots: in all.
    """

    kind: PerturbKind
    fates: Counter[Fate] = field(default_factory=Counter)
    found_by: Counter[str] = field(default_factory=Counter)
    steps: list[int] = field(default_factory=list)
    lost: dict[int, Fate] = field(default_factory=dict)
    false_alarms: int = 0
    verified_slots: int = 0


def run_campaign(
    kind: PerturbKind,
    count: int,
    *,
    seed: int,
    model: str = "hash",
    real_data: RealData = RealData.ALL,
    tick: Tick = lambda _: None,
) -> Campaign:
    """Break ``count`` slots, tables or tokens on the reference engine, one after the other.

    Not counted are slots that nobody could have found: those written again, or given back, unread.
    """
    result = Campaign(kind)
    # A token that was swapped stays in its slot, and each sweep would say so again.
    sweeps = kind is not PerturbKind.SWAP_NEXT_TOKEN
    session = InProcessSession.start(
        backend="reference",
        model_path=model,
        kv_canary="log",
        kv_canary_real_data=real_data.value,
        kv_canary_sweep_interval=SWEEP_INTERVAL if sweeps else 0,
        **_SIZES,
    )
    with session:
        session.execute_script(
            _perturb,
            args=(result, count, seed, real_data, tick),
            check_invariants=False,
            timeout_s=3600,
        )
    return result


def run_clean(
    slots: int, *, seed: int, topology: dict[str, Any], tick: Tick = lambda _: None
) -> tuple[int, int]:
    """Verify at least so many slots of which none is broken: how many there were, and the alarms."""
    figures: list[tuple[int, int]] = []

    def script(t: ScriptedContext) -> Iterator[None]:
        load, before = Load(t, seed=seed), 0
        while t.canary.verified_slots_total < slots:
            load.top_up()
            yield
            tick(t.canary.verified_slots_total - before)
            before = t.canary.verified_slots_total
        figures.append((before, t.canary.violations_total))

    with InProcessSession.start(
        backend="reference",
        kv_canary="log",
        kv_canary_real_data="all",
        kv_canary_sweep_interval=SWEEP_INTERVAL,
        **{**_SIZES, **topology},
    ) as session:
        session.execute_script(script, check_invariants=False, timeout_s=3600)
    return figures[0]


@dataclass(frozen=True)
class Cost:
    """Processor time of the canary for a decode step.

    Attributes:
        per_step_us: of each step.
        per_512_us: for 512 of the slots that the step verified.
        step_us: of the whole step, the canary included.
    """

    per_step_us: Sequence[float]
    per_512_us: Sequence[float]
    step_us: Sequence[float]


def run_cost(
    *, steps: int, requests: int, prompt_len: int, canary: dict[str, Any], model: str
) -> Cost:
    """Decode steps of some requests, whose prompts differ, with a canary or without."""
    costs: list[Cost] = []

    def script(t: ScriptedContext) -> Iterator[None]:
        handles = [
            t.start_req(prompt_len=prompt_len, seed=number, max_new_tokens=steps + 8)
            for number in range(requests)
        ]
        while not all(handle.output_ids for handle in handles):
            yield
        whole: list[float] = []
        before = time.thread_time_ns()
        if not canary:
            for _ in range(steps):
                yield
                before = _lap(whole, before)
            costs.append(Cost([], [], whole))
            return
        with witnessed(t) as witness:
            for _ in range(steps):
                yield
                before = _lap(whole, before)
            each = [cost / 1e3 for cost in witness.costs_ns]
            per_512 = [
                cost * 512 / slots for cost, slots in zip(each, witness.verified, strict=True)
            ]
        costs.append(Cost(each, per_512, whole))

    with InProcessSession.start(
        backend="reference", model_path=model, max_running_requests=requests, **canary
    ) as session:
        for _ in range(3):
            session.execute_script(script, check_invariants=False)
    kept = costs[1:]  # the first one warms up
    return Cost(
        per_step_us=[value for cost in kept for value in cost.per_step_us],
        per_512_us=[value for cost in kept for value in cost.per_512_us],
        step_us=[value for cost in kept for value in cost.step_us],
    )


def _lap(whole: list[float], before: int) -> int:
    now = time.thread_time_ns()
    whole.append((now - before) / 1e3)
    return now


def _perturb(
    t: ScriptedContext, result: Campaign, count: int, seed: int, real_data: RealData, tick: Tick
) -> Iterator[None]:
    load = Load(t, seed=seed)
    judge = _JUDGES.get(result.kind, _judge_flip)
    within = RealData.PARTIAL if real_data is RealData.PARTIAL else RealData.ALL
    with witnessed(t) as witness:
        for _ in range(30):  # until the tree holds something and the pool is full
            load.top_up()
            yield
        number = seed
        # Until so many could have been found: what was evicted unread is counted apart.
        while result.fates[Fate.FOUND] + result.fates[Fate.MISSED] < count:
            one = witness.canary.perturber.arm(
                Perturbation(kind=result.kind, seed=number, undo=True, within=within)
            )
            number += 1
            witness.on_flip = one
            while not one.done:
                load.top_up()
                yield
            done = result.fates[Fate.FOUND]
            yield from judge(t, load, witness, result, one)
            tick(result.fates[Fate.FOUND] - done)
        result.verified_slots = witness.verified_slots_total


def _judge_flip(
    t: ScriptedContext, load: Load, witness: Witness, result: Campaign, one: Perturbation
) -> Iterator[None]:
    for _ in range(_WAIT_FORWARDS):
        if witness.fate is None and is_free(t, one.slot):
            witness.decide(Fate.FREED)
        if witness.fate is not None:
            break
        load.top_up()
        yield
    witness.decide(Fate.MISSED)
    fate = witness.fate
    assert fate is not None, "decided just now"
    result.fates[fate] += 1
    if fate is Fate.FOUND:
        result.steps.append(witness.step - one.done)
        assert witness.found_by is not None, "whoever found it is known"
        result.found_by[witness.found_by.value] += 1
        if not one.undo and one.restore is not None:
            one.restore()
    else:
        result.lost[one.seed] = fate
    result.false_alarms += sum(
        report.slot != one.slot or report.reason is not Reason.VERIFY_REAL_KV_HASH
        for report in witness.take_reports()
    )


def _judge_rows(
    t: ScriptedContext, load: Load, witness: Witness, result: Campaign, one: Perturbation
) -> Iterator[None]:
    """Both requests have to be named, in that forward and in no other."""
    yield from ()
    reports = witness.take_reports()
    mine = [report for report in reports if report.step == one.done]
    reasons = {Reason.VERIFY_TOKEN, Reason.VERIFY_CHAIN_HASH, Reason.VERIFY_POSITION}
    rids = {report.rid for report in mine if report.reason in reasons}
    _count(result, one, is_found=len(rids) == 2, others=len(reports) - len(mine))


def _judge_token(
    t: ScriptedContext, load: Load, witness: Witness, result: Campaign, one: Perturbation
) -> Iterator[None]:
    """Two tokens, each expected where the other was found; what they leave behind is no false alarm."""
    yield from ()
    reports = witness.take_reports()
    fed = [report for report in reports if report.reason is Reason.WRITE_TOKEN]
    mine = [report for report in fed if report.step == one.done]
    is_found = len(mine) == 2 and [(r.expected, r.found) for r in mine] == [
        (r.found, r.expected) for r in reversed(mine)
    ]
    behind = {Reason.VERIFY_TOKEN, Reason.WRITE_TOKEN}
    strange = [report for report in reports if report.reason not in behind]
    _count(result, one, is_found=is_found, others=len(fed) - len(mine) + len(strange))


def _count(result: Campaign, one: Perturbation, *, is_found: bool, others: int) -> None:
    result.false_alarms += others
    if is_found:
        result.fates[Fate.FOUND] += 1
        result.found_by["forward"] += 1
        result.steps.append(0)
    else:
        result.fates[Fate.MISSED] += 1
        result.lost[one.seed] = Fate.MISSED


_Judge = Callable[[ScriptedContext, Load, Witness, Campaign, Perturbation], Iterator[None]]
_JUDGES: Final[dict[PerturbKind, _Judge]] = {
    PerturbKind.SWAP_ROWS: _judge_rows,
    PerturbKind.SWAP_NEXT_TOKEN: _judge_token,
}

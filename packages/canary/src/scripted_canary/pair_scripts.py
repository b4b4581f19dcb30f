"""The seeds' perturbation of a pair, as scripts: a slot breaks behind the prefill that has written it.

The prefill engine runs no forward that would read the slot, so it stays silent. Its KV goes to the
decode engine, whose first forward of the request reads it. Unless it was not that slot that went: of
identical prompts the prefix tree keeps the KV of one, and every other request's slots are given back
before its KV is sent. The scripts need ``kv_canary="log"``, hashed real data and no sweep, which would
find the slot in the prefix tree of the prefill engine.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.errors import CapabilityMissing, StepsExhausted
from scripted_core.views import Audit, OwnerKind

from scripted_canary.in_script import assert_no_violation, assert_per_forward_violation_reported
from scripted_canary.perturb import Perturbation
from scripted_canary.script_tools import canary_of, perturb_of
from scripted_canary.violations import Reason

PREFILL_POOL = "full@prefill"
_REASON = Reason.VERIFY_REAL_KV_HASH.value
_WAIT_S = 60.0
_MOST_STEPS = 400


@runtime_checkable
class Audited(Protocol):
    """An engine that says who owns each page of its pools, as ``EngineAdapter`` does."""

    def audit(self) -> Audit:
        """Who owns what now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Surfaced:
    """A perturbation that the decode engine has found: in which requests, and in which forwards.

    Attributes:
        rids: the requests whose KV has the wrong byte.
        steps: for each, the forward that found it first.
        first_steps: for each, the first forward that read its KV.
    """

    rids: tuple[str, ...]
    steps: tuple[int, ...]
    first_steps: tuple[int, ...]


def prompts_of(
    t: ScriptedContext, *, count: int, seed: int, distinct_prompts: bool, prompt_len: int = 40
) -> list[ScriptedReqHandle]:
    """Start so many requests at once: of prompts that differ at their first token, or all of one."""
    return [
        t.start_req(
            prompt_len=prompt_len,
            seed=seed + (i if distinct_prompts else 0),
            max_new_tokens=6,
            ignore_eos=True,
        )
        for i in range(count)
    ]


def p_side_perturb_surfaces_on_the_decode_side(
    t: ScriptedContext, *, seed: int, distinct_prompts: bool = True, requests: int = 4
) -> Generator[None, None, Surfaced]:
    """Flip a byte of a slot behind the prefill; the decode engine's first forward finds it.

    Raises ``AssertionError`` when it does not, when a later one is the first to do it, or when the
    prefill engine says anything.
    """
    handles = prompts_of(t, count=requests, seed=seed, distinct_prompts=distinct_prompts)
    broken = perturb_of(t).flip_after_forward(pool=PREFILL_POOL, seed=seed)
    before = canary_of(t).forwards_seen("full")
    yield from assert_per_forward_violation_reported(
        t, fail_reason=_REASON, target_group="full", side="decode", flush_wait_seconds=_WAIT_S
    )
    assert broken.done, "what was not broken cannot be found"
    yield from _until_all_finished(handles)
    surfaced = _surfaced(t, before=before)
    assert surfaced.steps == surfaced.first_steps, surfaced
    yield from assert_no_violation(t, side="prefill", wait_seconds=_WAIT_S)
    return surfaced


def nothing_is_wrong_with_identical_prompts(
    t: ScriptedContext, *, seed: int, requests: int = 4
) -> Iterator[None]:
    """The baseline: identical prompts, twice, with the prefix tree on and nothing broken."""
    for _ in range(2):
        handles = prompts_of(t, count=requests, seed=seed, distinct_prompts=False)
        yield from _until_all_finished(handles)
        for side in ("prefill", "decode"):
            yield from assert_no_violation(t, side=side, wait_seconds=_WAIT_S)


def deduplicated_before_the_transfer(t: ScriptedContext, *, seed: int) -> Iterator[None]:
    """Two identical prompts in one prefill, and a slot of the second is broken: nobody finds it.

    The transfer is held, so that what happens before it can be seen: the slot is on the free list while
    the KV of its request has not been sent on.
    """
    first, second = prompts_of(t, count=2, seed=seed, distinct_prompts=False)
    broken = perturb_of(t).flip_after_forward(handle=second, pool=PREFILL_POOL, seed=seed)
    t.transfer.hold()
    yield from _until_done(broken)
    assert len(t.transfer.pending_of(second)) == 1, "all of its KV is still to be copied"
    assert _owner_of(t, broken.slot) is OwnerKind.FREE, "its slot was given back before"
    t.transfer.resume()
    yield from _until_all_finished([first, second])
    assert first.output_ids == second.output_ids, "both have the KV that the tree has kept"
    for side in ("prefill", "decode"):
        yield from assert_no_violation(t, side=side, wait_seconds=_WAIT_S)


def the_kept_copy_goes_to_all(t: ScriptedContext, *, seed: int) -> Iterator[None]:
    """The same, and a slot of the first is broken: the one that is kept, and sent for both."""
    first, second = prompts_of(t, count=2, seed=seed, distinct_prompts=False)
    broken = perturb_of(t).flip_after_forward(handle=first, pool=PREFILL_POOL, seed=seed)
    before = canary_of(t).forwards_seen("full")
    t.transfer.hold()
    yield from _until_done(broken)
    assert _owner_of(t, broken.slot) is OwnerKind.TREE, "the tree has taken it over"
    t.transfer.resume()
    yield from _until_all_finished([first, second])
    surfaced = _surfaced(t, before=before)
    assert set(surfaced.rids) == {first.rid, second.rid}
    assert surfaced.steps == surfaced.first_steps, surfaced
    yield from assert_no_violation(t, side="prefill", wait_seconds=_WAIT_S)


def _surfaced(t: ScriptedContext, *, before: int) -> Surfaced:
    """What the decode engine's canary has found in this script."""
    canary = canary_of(t)
    found: dict[str, int] = {}
    for one in canary.violations.last(canary.violations.capacity):
        assert (one.group, one.reason.value) == ("full", _REASON), one
        found.setdefault(one.rid, one.step)
    decodes = [record for record in t.batch_log if record.mode == "decode"]
    first = {
        rid: before + 1 + next(i for i, one in enumerate(decodes) if rid in one.rids)
        for rid in found
    }
    return Surfaced(
        rids=tuple(found), steps=tuple(found.values()), first_steps=tuple(first.values())
    )


def _owner_of(t: ScriptedContext, slot: int) -> OwnerKind:
    """Who has a slot of the prefill engine now, one slot being one page."""
    engine = t.engine
    if not isinstance(engine, Audited):
        raise CapabilityMissing(f"engine {engine.name!r} does not say who owns its KV pages")
    (pool,) = (one for one in engine.audit().pools if one.pool == PREFILL_POOL)
    (claim,) = (claim for claim in pool.claims if slot in claim.pages)
    return claim.kind


def _until_done(perturbation: Perturbation) -> Iterator[None]:
    for _ in range(_MOST_STEPS):
        if perturbation.done:
            return
        yield
    raise StepsExhausted(f"{perturbation} did not happen within {_MOST_STEPS} steps")


def _until_all_finished(handles: Sequence[ScriptedReqHandle]) -> Iterator[None]:
    for _ in range(_MOST_STEPS):
        if all(handle.finished for handle in handles):
            return
        yield
    raise StepsExhausted(f"not all of {len(handles)} requests ended within {_MOST_STEPS} steps")

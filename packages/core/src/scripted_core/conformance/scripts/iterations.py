"""What a `yield` is, and that a script is the same every time."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_core.conformance.check import EngineFacts, Group
from scripted_core.conformance.steps import (
    Steps,
    alone,
    at_rest,
    decode,
    expect,
    finish,
    run,
    same_output,
    start,
)
from scripted_core.context import ScriptedContext
from scripted_core.views import RequestStatus

check = Group()


@check("yield", "with nothing to do an iteration passes and no batch runs")
def idle_iterations(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Count iterations of an idle engine."""
    for n in range(1, 6):
        yield
        expect(t.step_index == n, f"after {n} yields t.step_index is {t.step_index}")
        expect(not t.batch_log, f"iteration {n} of an idle engine ran a batch")
        expect(t.is_idle and t.is_fully_idle, f"iteration {n}: an idle engine is not fully idle")


@check("yield", "what was posted before it is received in that iteration")
def received_in_the_coming_iteration(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Look for a request before and after the iteration that receives it."""
    r = start(t)
    expect(r.status is RequestStatus.WAITING, f"posted, the request is {r.status.value}")
    expect(not t.is_fully_idle, "with a request in its inbox the engine says it is fully idle")
    yield
    queues = t.queues
    expect(
        r.rid in {*queues.waiting, *queues.running, *queues.chunked},
        "after one iteration the request is in none of the queues",
    )
    yield from finish(r)
    yield from at_rest(t)


@check("yield", "a decoding request gets one token in each iteration, from one batch")
def one_batch_an_iteration(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Count batches and tokens of a request that decodes alone."""
    r = start(t, max_new_tokens=16)
    yield from decode(r, 2)
    several = Capability.SPEC_DECODE in t.capabilities
    spread = Capability.PP in t.capabilities  # a slot without a microbatch of it runs nothing
    for _ in range(6):
        batches, tokens = len(t.batch_log), len(r.output_ids)
        yield
        ran, came = len(t.batch_log) - batches, len(r.output_ids) - tokens
        expect(ran == 1 or (spread and ran == 0), f"one iteration ran {ran} batches")
        expect(
            came == 1 or (several and came > 1) or (spread and came == 0),
            f"one iteration brought {came} tokens",
        )
    yield from finish(r)
    yield from at_rest(t)


@check(
    "yield",
    "with overlap, the results of a batch are processed one iteration late",
    needs=(Capability.OVERLAP,),
)
def results_one_iteration_late(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Find the first token one iteration after the prefill that gives it."""
    r = start(t, prompt_len=20)
    yield from _until_prefilled(t, r.rid)
    expect(not r.output_ids, "the first token is there in the iteration of its prefill")
    yield
    expect(len(r.output_ids) == 1, f"one iteration later there are {len(r.output_ids)} tokens")
    yield from finish(r)


def _until_prefilled(t: ScriptedContext, rid: str) -> Steps:
    for _ in range(20):
        if t.batch is not None and rid in t.batch.extend_rids:
            return
        yield


@check("determinism", "the same script has the same event log", twice=True)
def the_same_events(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Several requests of different lengths, and one abort."""
    handles = [start(t, prompt_len=10 + 25 * n, seed=n, max_new_tokens=4 + n) for n in range(4)]
    yield from run(3)
    t.abort(handles[-1])
    yield from finish(*handles)
    yield from at_rest(t)


@check("determinism", "without a temperature the same prompt has the same output, in any company")
def the_same_output(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A prompt alone, and then twice at once beside others."""
    undisturbed = yield from alone(t, prompt_len=50, seed=3, max_new_tokens=10)
    others = [start(t, prompt_len=30 + n, seed=20 + n, max_new_tokens=14) for n in range(3)]
    yield from decode(others[0], 1)
    twins = [start(t, prompt_len=50, seed=3, max_new_tokens=10) for _ in range(2)]
    yield from finish(*twins, *others)
    for r in twins:
        same_output(r, undisturbed)
    yield from at_rest(t)

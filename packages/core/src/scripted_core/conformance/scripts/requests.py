"""Starting requests, and what their clients receive."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_core.conformance.check import EngineFacts, Group
from scripted_core.conformance.steps import (
    Steps,
    alone,
    at_rest,
    client_has_all,
    decode,
    expect,
    finish,
    reason,
    run,
    same_output,
    settle,
    start,
)
from scripted_core.context import ScriptedContext
from scripted_core.views import FinishKind, RequestStatus

check = Group()


@check("start_req()", "returns once the request has arrived: requests are served in call order")
def served_in_call_order(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Several requests before one yield."""
    handles = [start(t, prompt_len=12, seed=n, max_new_tokens=3) for n in range(5)]
    yield from finish(*handles)
    served = list(dict.fromkeys(rid for record in t.batch_log for rid in record.rids))
    order = [served.index(r.rid) + 1 for r in handles if r.rid in served]
    expect(order == [1, 2, 3, 4, 5], f"started as 1 to 5, they were served in places {order}")
    yield from at_rest(t)


@check("start_req(max_new_tokens=)", "ends by length, with exactly so many tokens")
def ends_by_length(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Three lengths, the shortest of which ends with its prefill."""
    for wanted in (1, 2, 9):
        r = start(t, seed=wanted, max_new_tokens=wanted)
        yield from finish(r)
        got = len(r.output_ids)
        expect(got == wanted, f"{wanted} tokens were asked for and {got} came")
        expect(reason(r) == FinishKind.LENGTH, f"the finish reason is {reason(r)}")
        expect(r.status is RequestStatus.FINISHED, f"the status is {r.status.value}")
    yield from at_rest(t)


@check("start_req(stop_token_ids=)", "ends with reason stop at the first of these tokens")
def ends_at_a_stop_token(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Stop at a token that the undisturbed output is known to have."""
    output = yield from alone(t, seed=5, max_new_tokens=12)
    fresh = [i for i in range(2, 12) if output[i] not in output[:i]]
    # An output that repeats itself from its third token on still stops at its first.
    last = fresh[0] if fresh else 0
    r = t.start_req(prompt_len=40, seed=5, max_new_tokens=40, stop_token_ids=[output[last]])
    yield from finish(r)
    expect(reason(r) == FinishKind.STOP, f"the finish reason is {reason(r)}")
    same_output(r, output[: last + 1])
    yield from at_rest(t)


@check("start_req(rid=)", "the rid is the engine's own; an automatic one is scripted-<n>-<hex>")
def rids(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """An explicit and an automatic rid, as the engine's views name them."""
    named = t.start_req(prompt_len=10, rid="conformance", max_new_tokens=6, ignore_eos=True)
    automatic = start(t, prompt_len=10, max_new_tokens=6)
    expect(automatic.rid.startswith("scripted-1-"), f"the automatic rid is {automatic.rid}")
    yield
    live = {view.rid for view in t.engine.requests()}
    expect(live == {named.rid, automatic.rid}, f"the engine's live requests are {sorted(live)}")
    native = t.find_req_by_rid("conformance")
    expect(native is not None, "the engine's own object of a live request is not found")
    yield from finish(named, automatic)
    yield from at_rest(t)


@check(
    "start_req()",
    "a prompt over the context is refused, with a reason, before the inbox",
    facts=("context_tokens",),
)
def refused_before_the_inbox(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """A prompt that is one token longer than the context, and a good one after it."""
    assert facts.context_tokens is not None
    r = start(t, prompt_len=facts.context_tokens + 1)
    expect(r.finished, f"it is {r.status.value} when the call returns")
    expect(reason(r) == FinishKind.REFUSED, f"it ended with reason {reason(r)}")
    found = r.finish_reason
    expect(found is not None and found.message != "", "the refusal says no reason")
    yield from run(3)
    expect(not t.batch_log, "a batch ran for a refused request")
    good = start(t)
    yield from finish(good)
    expect(good.status is RequestStatus.FINISHED, f"the next request is {good.status.value}")


@check(
    "start_req(priority=)",
    "of those that wait, the highest priority is served first",
    needs=(Capability.PRIORITY, Capability.ROW_POOL, Capability.PAUSE_IN_PLACE),
)
def highest_priority_first(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Three requests and one row for them."""
    t.exhaust("rows", leave_rows=1)
    t.pause_generation(mode="in_place")
    yield
    handles = {
        level: t.start_req(
            prompt_len=20, seed=level, max_new_tokens=2, ignore_eos=True, priority=level
        )
        for level in (1, 9, 5)
    }
    yield
    t.continue_generation()
    yield from finish(*handles.values())
    levels = {r.rid: level for level, r in handles.items()}
    served = list(dict.fromkeys(levels[rid] for record in t.batch_log for rid in record.rids))
    expect(served == [9, 5, 1], f"priorities were served in the order {served}")


@check(
    "start_req(return_logprob=)",
    "log probabilities leave the output as it is",
    needs=(Capability.LOGPROBS,),
)
def logprobs_leave_the_output(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """The same prompt with and without them."""
    undisturbed = yield from alone(t, prompt_len=70, seed=6, max_new_tokens=4)
    r = t.start_req(
        prompt_len=70,
        seed=6,
        max_new_tokens=4,
        ignore_eos=True,
        return_logprob=True,
        logprob_start_len=0,
    )
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)


@check(
    "start_req(dp_rank=)",
    "runs on the replica that it names, and takes memory of no other",
    needs=(Capability.DP,),
)
def runs_on_its_replica(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Compare the pools of the replicas while the request decodes."""
    pools = list(t.engine.kv_pools.values())
    for rank in (1, 0):
        yield from settle(t)
        before = [pool.available for pool in pools]
        r = t.start_req(prompt_len=40, seed=rank, max_new_tokens=8, ignore_eos=True, dp_rank=rank)
        yield from decode(r, 2)
        taken = [was - pool.available for was, pool in zip(before, pools, strict=True)]
        others = sum(pages for i, pages in enumerate(taken) if i != rank)
        expect(taken[rank] > 0, f"replica {rank} gave it no pages: {taken}")
        expect(others == 0, f"replica {rank} was named and {others} pages are of others")
        yield from finish(r)


@check("handle.client", "at the end it has received exactly output_ids")
def the_client_has_it_all(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Several streams at once."""
    handles = [start(t, prompt_len=20 + n, seed=n, max_new_tokens=5 + n) for n in range(3)]
    yield from finish(*handles)
    for r in handles:
        client_has_all(r)
        found = r.client.finish_reason
        expect(
            found is not None and found.kind is FinishKind.LENGTH,
            f"its client was told {None if found is None else found.kind.value}",
        )


@check(
    "handle.client",
    "no token is lost, repeated or spliced across retractions",
    needs=(Capability.RETRACT,),
)
def no_token_lost_across_retractions(t: ScriptedContext, facts: EngineFacts) -> Steps:
    """Retract one request three times."""
    undisturbed = yield from alone(t, prompt_len=50, seed=7, max_new_tokens=14)
    r = start(t, prompt_len=50, seed=7, max_new_tokens=14)
    for tokens in (1, 4, 8):
        yield from decode(r, tokens)
        t.pause_generation(mode="retract")
        yield from run(2)
        t.continue_generation()
    yield from finish(r)
    same_output(r, undisturbed)
    yield from at_rest(t)

"""Steps that the checks share, and the one way in which they say what they saw."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from scripted_core.context import ScriptedContext
from scripted_core.handle import ScriptedReqHandle
from scripted_core.views import RequestStatus

MAX_STEPS = 300
_REST_STEPS = 32
_STREAM_ENDS_WITHIN_S = 5.0

Steps = Generator[None, None, None]


def expect(holds: bool, seen: str) -> None:
    """Raise ``AssertionError(seen)`` unless ``holds``; ``seen`` says what the engine did instead."""
    if not holds:
        raise AssertionError(seen)


def run(n: int) -> Steps:
    """Exactly ``n`` iterations."""
    for _ in range(n):
        yield


def until(reached: Callable[[], bool], what: str, *, max_steps: int = MAX_STEPS) -> Steps:
    """Step until ``reached()``; an ``AssertionError`` says that ``what`` did not happen."""
    for _ in range(max_steps):
        if reached():
            return
        yield
    expect(reached(), f"{what} did not happen within {max_steps} iterations")


def finish(*handles: ScriptedReqHandle, max_steps: int = MAX_STEPS) -> Steps:
    """Step until every request has ended."""
    yield from until(
        lambda: all(handle.finished for handle in handles),
        "the end of the request" if len(handles) == 1 else "the end of the requests",
        max_steps=max_steps,
    )


def decode(handle: ScriptedReqHandle, tokens: int) -> Steps:
    """Step until the request has ``tokens`` output tokens; it must not end before."""
    yield from until(
        lambda: len(handle.output_ids) >= tokens or handle.finished, f"output token {tokens}"
    )
    expect(
        len(handle.output_ids) >= tokens,
        f"the request ended ({reason(handle)}) before it had {tokens} output tokens",
    )


def chunk(handle: ScriptedReqHandle, n: int) -> Steps:
    """Step until ``n`` chunks of the prompt have run and more is to come."""
    yield from until(lambda: handle.chunks_done >= n or handle.finished, f"chunk {n} of the prompt")
    expect(handle.is_chunking, f"after chunk {n} the request is not mid-chunk: {handle.status}")


def settle(t: ScriptedContext) -> Steps:
    """Step until nothing is in flight."""
    yield from until(lambda: t.is_fully_idle, "idleness after the last end", max_steps=_REST_STEPS)


def flush(t: ScriptedContext) -> Steps:
    """An empty prefix tree, from an engine that comes to rest."""
    yield from settle(t)
    receipt = t.flush_cache()
    yield
    expect(receipt.ok is True, f"an idle engine did not flush: {receipt.message or receipt.ok}")


def at_rest(t: ScriptedContext) -> Steps:
    """Settle, and find all memory free or in the prefix tree."""
    yield from settle(t)
    stats = t.engine_stats()
    pages = stats["kv_pool_free"] + stats["kv_pool_evictable"]
    missing = stats["kv_pool_total"] - pages
    expect(missing == 0, f"at rest, {missing} of {stats['kv_pool_total']} KV pages are not back")
    lost = stats.get("req_pool_total", 0) - stats.get("req_pool_free", 0)
    expect(lost == 0, f"at rest, {lost} of the request rows are not back")


def start(
    t: ScriptedContext, *, prompt_len: int = 40, seed: int = 1, max_new_tokens: int = 8
) -> ScriptedReqHandle:
    """A request with a random prompt that ends by its length."""
    return t.start_req(
        prompt_len=prompt_len, seed=seed, max_new_tokens=max_new_tokens, ignore_eos=True
    )


def alone(
    t: ScriptedContext, *, prompt_len: int = 40, seed: int = 1, max_new_tokens: int = 8
) -> Generator[None, None, list[int]]:
    """What that request is answered with when nothing interferes; leaves an empty prefix tree."""
    r = start(t, prompt_len=prompt_len, seed=seed, max_new_tokens=max_new_tokens)
    yield from finish(r)
    output = r.output_ids
    expect(
        len(output) == max_new_tokens,
        f"asked for {max_new_tokens} tokens and undisturbed, it put out {len(output)}",
    )
    yield from flush(t)
    return output


def same_output(handle: ScriptedReqHandle, undisturbed: Sequence[int]) -> None:
    """The request's output, and its client's, is that of an undisturbed run."""
    output = handle.output_ids
    expect(output == list(undisturbed), f"output {differs(output, undisturbed)}")
    client_has_all(handle)


def client_has_all(handle: ScriptedReqHandle) -> None:
    """The client has received exactly the output."""
    client = handle.client
    expect(client.wait_ended(_STREAM_ENDS_WITHIN_S), "the client's stream did not end")
    expect(
        client.token_ids == handle.output_ids,
        f"what the client received {differs(client.token_ids, handle.output_ids)}",
    )


def differs(found: Sequence[int], wanted: Sequence[int]) -> str:
    """How two sequences of tokens differ, in words."""
    for i, (one, other) in enumerate(zip(found, wanted, strict=False)):
        if one != other:
            return f"differs from token {i + 1} of {len(wanted)} on"
    return f"has {len(found)} tokens instead of {len(wanted)}"


def frozen(t: ScriptedContext, handle: ScriptedReqHandle, *, iterations: int = 4) -> Steps:
    """Step, while nothing of the request changes and no batch runs."""
    before = _state(handle)
    batches = len(t.batch_log)
    for n in range(1, iterations + 1):
        yield
        now = _state(handle)
        for name, was in before.items():
            expect(now[name] == was, f"iteration {n} of the pause: {name} {was} became {now[name]}")
        ran = len(t.batch_log) - batches
        expect(ran == 0, f"iteration {n} of the pause: a batch ran")


def _state(handle: ScriptedReqHandle) -> dict[str, object]:
    return {
        "status": handle.status.value,
        "output tokens": len(handle.output_ids),
        "remaining prompt tokens": handle.remaining_prompt_tokens,
        "KV pages": handle.kv_pages,
    }


def has_status(handle: ScriptedReqHandle, wanted: RequestStatus, when: str) -> None:
    """``status`` is ``wanted``."""
    status = handle.status
    expect(status is wanted, f"{when} the status is {status.value}, not {wanted.value}")


def reason(handle: ScriptedReqHandle) -> str:
    """How the request ended, in a word."""
    found = handle.finish_reason
    return "it has not ended" if found is None else found.kind.value

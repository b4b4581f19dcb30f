"""Steps that bring a window pool to where a script wants it."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from scripted_chunked import advance_to_decode_step
from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.errors import StepsExhausted

from scripted_backend_swa.arguments import CHUNK_TOKENS, WINDOW_TOKENS

WINDOW_POOL = "swa"
"""The name of the window pool on every engine that has one."""
_DECODER_PROMPT_LEN = 8
_DECODER_TOKENS = 400
_CANDIDATE_CHUNKS = 6
_STEPS_FOR_A_CHUNK = 12

Handles = list[ScriptedReqHandle]


def window_pages_left(t: ScriptedContext) -> int:
    """Pages of the window pool that a request could get: free ones and those the tree would give up."""
    pool = t.engine.kv_pools[WINDOW_POOL]
    return pool.available + pool.evictable


def fill_window_pool(
    t: ScriptedContext, *, seed: int = 1000, most: int = 16
) -> Generator[None, None, Handles]:
    """Start requests that decode until a chunk and the window before it do not fit beside them.

    The value of ``yield from``: their handles. A chunk alone still fits, so a prompt can be begun and
    not be gone on with. Raises ``StepsExhausted`` when ``most`` of them are not enough.
    """
    decoders: Handles = []
    page_size = t.engine_stats()["page_size"]
    while window_pages_left(t) * page_size >= CHUNK_TOKENS + WINDOW_TOKENS:
        if len(decoders) == most:
            raise StepsExhausted(
                f"fill_window_pool: {window_pages_left(t)} pages are left beside {most} requests\n"
                f"last state:\n{t.hook.describe_state()}",
                hint="give the engine a smaller swa_full_tokens_ratio",
            )
        decoder = t.start_req(
            prompt_len=_DECODER_PROMPT_LEN,
            seed=seed + len(decoders),
            max_new_tokens=_DECODER_TOKENS,
            ignore_eos=True,
        )
        yield from advance_to_decode_step(decoder, WINDOW_TOKENS)
        decoders.append(decoder)
    return decoders


def park_a_candidate(
    t: ScriptedContext, *, seed: int = 2000, most: int = 8
) -> Generator[None, None, tuple[ScriptedReqHandle, Handles]]:
    """Start requests with long prompts until one waits in the middle of its prompt for window slots.

    The value of ``yield from``: the one that waits, and all of them. Raises ``StepsExhausted`` when
    none of ``most`` has to wait. SGLang begins a prompt when a chunk and the window before it fit, and
    makes the next chunk as small as what is left: nobody waits there (0.5.23).
    """
    candidates: Handles = []
    for number in range(most):
        candidates.append(
            t.start_req(
                prompt_len=_CANDIDATE_CHUNKS * CHUNK_TOKENS,
                seed=seed + number,
                max_new_tokens=8,
                ignore_eos=True,
            )
        )
        for _ in range(_STEPS_FOR_A_CHUNK):
            yield
            parked = _first_parked(candidates)
            if parked is not None:
                return parked, candidates
    raise StepsExhausted(
        f"park_a_candidate: none of {most} requests had to wait for its next chunk\n"
        f"last state:\n{t.hook.describe_state()}",
        hint="fill the window pool first, see fill_window_pool",
    )


def _first_parked(candidates: Sequence[ScriptedReqHandle]) -> ScriptedReqHandle | None:
    return next((one for one in candidates if one.is_chunking and one.chunked_parks > 0), None)


def require_no_locks(t: ScriptedContext) -> None:
    """Check that no node of the prefix tree is locked; ``AssertionError`` with the locked ones."""
    locked = {node: refs for node, refs in t.get_all_node_lock_refs().items() if refs}
    if locked:
        raise AssertionError(f"nodes are locked although nothing runs: {locked}")

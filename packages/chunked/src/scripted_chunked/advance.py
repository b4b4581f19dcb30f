"""To an exact point of a request's life: a chunk, a decode step, a named stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

from scripted_core import ScriptedReqHandle
from scripted_core.errors import ConfigError, StepsExhausted
from scripted_core.handle import require_handle

from scripted_chunked.engine import DEFAULT_MAX_STEPS
from scripted_chunked.until import run_until

LIFECYCLE_STAGES: tuple[str, ...] = (
    "first_chunk",
    "last_chunk",
    "first_decode",
    "mid_decode",
    "last_decode",
)
"""Points at which a lifecycle script interferes, in the order of a request's life."""

LifecycleStage = Literal["first_chunk", "last_chunk", "first_decode", "mid_decode", "last_decode"]


def advance_to_nth_chunk(
    r: ScriptedReqHandle, target_chunk: int, *, max_steps: int = DEFAULT_MAX_STEPS
) -> Iterator[None]:
    """Step until ``target_chunk`` prefill chunks of ``r`` have run (counted from 1).

    Raises ``StepsExhausted`` when the steps run out or the request ends first.
    """
    require_handle("advance_to_nth_chunk", r)
    yield from _run_before_end(
        r,
        lambda: r.chunks_done >= target_chunk,
        f"chunk {target_chunk} was not reached",
        max_steps,
    )


def advance_to_decode_step(
    r: ScriptedReqHandle, target_output_len: int, *, max_steps: int = DEFAULT_MAX_STEPS
) -> Iterator[None]:
    """Step until ``r`` has ``target_output_len`` output tokens.

    Raises ``StepsExhausted`` when the steps run out or the request ends with fewer.
    """
    require_handle("advance_to_decode_step", r)
    yield from _run_before_end(
        r,
        lambda: len(r.output_ids) >= target_output_len,
        f"output length {target_output_len} was not reached",
        max_steps,
    )


def advance_to_lifecycle_stage(
    r: ScriptedReqHandle,
    stage: LifecycleStage | str,
    *,
    num_middle_chunks: int = 1,
    max_new_tokens: int = 8,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Iterator[None]:
    """Step until ``r`` is at a stage of ``LIFECYCLE_STAGES``.

    The request was started with a prompt of a first chunk, ``num_middle_chunks`` full ones and a
    last one, and with ``max_new_tokens``. ``first_chunk``: one chunk has run. ``last_chunk``: all
    but the last have. ``first_decode``, ``mid_decode``, ``last_decode``: 1, half, and all but one
    of the output tokens are there.
    """
    require_handle("advance_to_lifecycle_stage", r)
    match stage:
        case "first_chunk":
            yield from advance_to_nth_chunk(r, 1, max_steps=max_steps)
        case "last_chunk":
            yield from advance_to_nth_chunk(r, 1 + num_middle_chunks, max_steps=max_steps)
        case "first_decode":
            yield from advance_to_decode_step(r, 1, max_steps=max_steps)
        case "mid_decode":
            yield from advance_to_decode_step(r, max(1, max_new_tokens // 2), max_steps=max_steps)
        case "last_decode":
            yield from advance_to_decode_step(r, max(1, max_new_tokens - 1), max_steps=max_steps)
        case _:
            raise ConfigError(
                f"advance_to_lifecycle_stage: unknown stage {stage!r}",
                hint=f"one of {', '.join(LIFECYCLE_STAGES)}",
            )


def _run_before_end(
    r: ScriptedReqHandle, reached: Callable[[], bool], what: str, max_steps: int
) -> Iterator[None]:
    yield from run_until(r, lambda h: reached() or h.finished, max_steps=max_steps)
    if not reached():
        raise StepsExhausted(
            f"{what} before request {r.rid!r} ended ({r.finish_reason}; "
            f"chunks_done={r.chunks_done}, output tokens={len(r.output_ids)})",
            hint="start it with a longer prompt or more max_new_tokens, or with ignore_eos=True",
        )

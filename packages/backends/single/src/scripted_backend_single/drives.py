"""How scenarios drive their requests: start, pause, abort, evict, and wait for the ends.

Each generator starts one request for each prompt, in order, and returns the handles in that order once
all have ended. None of them relies on two requests running at the same time: under pressure they may
have to take turns.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Literal, Protocol

from scripted_chunked import (
    advance_to_decode_step,
    advance_to_lifecycle_stage,
    advance_to_nth_chunk,
    run_until_all_finished,
)
from scripted_chunked.steps import run_steps
from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.views import RequestStatus

NEW_TOKENS = 8
"""Output tokens of a request that is interfered with at a stage of its life."""
_MAX_STEPS = 3000  # ten requests that take turns at one row
_FROZEN_STEPS = 3

PauseMode = Literal["retract", "in_place"]
Handles = list[ScriptedReqHandle]
Driving = Generator[None, None, Handles]


class Startable(Protocol):
    """What a drive needs of a prompt."""

    def start(self, t: ScriptedContext) -> ScriptedReqHandle:
        """Start it as a request."""
        ...


def all_at_once(t: ScriptedContext, prompts: Sequence[Startable]) -> Driving:
    """All requests arrive in one iteration."""
    started = _start(t, prompts)
    yield from _finish(started)
    return started


def staggered(t: ScriptedContext, prompts: Sequence[Startable]) -> Driving:
    """Two requests arrive every third iteration."""
    started: Handles = []
    for at in range(0, len(prompts), 2):
        started += _start(t, prompts[at : at + 2])
        yield from run_steps(3)
    yield from _finish(started)
    return started


def last_joins_decoding(t: ScriptedContext, prompts: Sequence[Startable]) -> Driving:
    """The last request arrives when the first one decodes."""
    started = _start(t, prompts[:-1])
    yield from advance_to_decode_step(started[0], 2, max_steps=_MAX_STEPS)
    started += _start(t, prompts[-1:])
    yield from _finish(started)
    return started


def pause(
    t: ScriptedContext, prompts: Sequence[Startable], *, stage: str, mode: PauseMode
) -> Driving:
    """Pause when the first request is at ``stage``; nothing changes until the engine goes on."""
    started = _start(t, prompts)
    yield from _advance(started[0], stage)
    t.pause_generation(mode=mode)
    yield
    if mode == "retract":
        _require_all_put_back(t, started)
    yield from _stay_frozen(t, started)
    t.continue_generation()
    yield from _finish(started)
    return started


def retract_after_in_place(t: ScriptedContext, prompts: Sequence[Startable]) -> Driving:
    """Freeze the engine in the middle of a prompt, then take everything back after all."""
    started = _start(t, prompts)
    yield from advance_to_nth_chunk(started[0], 1, max_steps=_MAX_STEPS)
    t.pause_generation(mode="in_place")
    yield from run_steps(2)
    t.pause_generation(mode="retract")
    yield
    _require_all_put_back(t, started)
    yield from _stay_frozen(t, started)
    t.continue_generation()
    yield from _finish(started)
    return started


def retract_again_and_again(t: ScriptedContext, prompts: Sequence[Startable]) -> Driving:
    """Retract in the middle of the prompt, and after every third token of the output."""
    started = _start(t, prompts)
    yield from advance_to_nth_chunk(started[0], 2, max_steps=_MAX_STEPS)
    for tokens in (1, 4, 7, 10):
        t.pause_generation(mode="retract")
        yield from run_steps(2)
        t.continue_generation()
        yield from advance_to_decode_step(started[0], tokens, max_steps=_MAX_STEPS)
    yield from _finish(started)
    return started


def start_while_paused(
    t: ScriptedContext, prompts: Sequence[Startable], *, mode: PauseMode
) -> Driving:
    """All but the first request arrive at an engine that is paused in the first one's prompt."""
    started = _start(t, prompts[:1])
    yield from advance_to_nth_chunk(started[0], 1, max_steps=_MAX_STEPS)
    t.pause_generation(mode=mode)
    yield
    started += _start(t, prompts[1:])
    yield
    for handle in started[1:]:
        _require(handle.status is RequestStatus.WAITING, f"{handle} was let in by a paused engine")
    yield from _stay_frozen(t, started)
    t.continue_generation()
    yield from _finish(started)
    return started


def abort_first(t: ScriptedContext, prompts: Sequence[Startable], *, stage: str) -> Driving:
    """Abort the first request at ``stage``; the others go on."""
    started = _start(t, prompts)
    yield from _advance(started[0], stage)
    t.abort(started[0])
    yield from _finish(started)
    # An engine that overlaps has the last token under way when all but it are there.
    _require_aborted(started[0], may_be_over=stage == "last_decode")
    return started


def abort_while_paused(
    t: ScriptedContext, prompts: Sequence[Startable], *, mode: PauseMode
) -> Driving:
    """Abort the first request, in the middle of its prompt, while the engine is paused."""
    started = _start(t, prompts)
    yield from advance_to_nth_chunk(started[0], 1, max_steps=_MAX_STEPS)
    t.pause_generation(mode=mode)
    yield
    t.abort(started[0])
    yield from run_steps(2)
    t.continue_generation()
    yield from _finish(started)
    _require_aborted(started[0], may_be_over=False)
    return started


def abort_all_and_start_again(
    t: ScriptedContext, prompts: Sequence[Startable], *, stage: str
) -> Driving:
    """Abort everything when the first request is at ``stage``, then start all of it anew.

    The second requests find in the prefix tree what the aborted ones left there.
    """
    doomed = _start(t, prompts)
    yield from _advance(doomed[0], stage)
    t.abort_all()
    yield from run_until_all_finished(doomed, max_steps=16)
    _require_aborted(doomed[0], may_be_over=stage == "last_decode")
    started = _start(t, prompts)
    yield from _finish(started)
    return started


def evict_and_flush_while_busy(t: ScriptedContext, prompts: Sequence[Startable]) -> Driving:
    """Evict everything that may be, in the middle of a prompt and of an output, and try to flush."""
    started = _start(t, prompts)
    yield from advance_to_nth_chunk(started[0], 1, max_steps=_MAX_STEPS)
    t.evict_radix()
    refused = t.flush_cache()
    yield
    _require(refused.ok is False, f"an engine in the middle of a prompt was flushed: {refused}")
    yield from advance_to_decode_step(started[0], 3, max_steps=_MAX_STEPS)
    t.evict_radix()
    yield from _finish(started)
    return started


def _start(t: ScriptedContext, prompts: Sequence[Startable]) -> Handles:
    return [prompt.start(t) for prompt in prompts]


def _finish(started: Handles) -> Iterator[None]:
    yield from run_until_all_finished(started, max_steps=_MAX_STEPS)


def _advance(handle: ScriptedReqHandle, stage: str) -> Iterator[None]:
    yield from advance_to_lifecycle_stage(
        handle, stage, num_middle_chunks=1, max_new_tokens=NEW_TOKENS, max_steps=_MAX_STEPS
    )


def _stay_frozen(t: ScriptedContext, started: Handles) -> Iterator[None]:
    """Step, and check that neither a request nor the batch log changes."""
    before = [(handle.status, handle.output_ids, handle.chunks_done) for handle in started]
    batches = len(t.batch_log)
    for _ in range(_FROZEN_STEPS):
        yield
        now = [(handle.status, handle.output_ids, handle.chunks_done) for handle in started]
        _require(now == before, f"a paused engine went on:\nbefore {before}\nnow    {now}")
    _require(len(t.batch_log) == batches, f"a paused engine ran {t.batch}")


def _require_all_put_back(t: ScriptedContext, started: Handles) -> None:
    queues = t.queues
    _require(not queues.running and not queues.chunked, f"retracted, and yet: {queues}")
    for handle in started:
        # With overlap the result in flight is processed first, and may be a request's last.
        _require(
            handle.finished or handle.status is RequestStatus.WAITING,
            f"{handle} was not put back by a pause that retracts",
        )
        _require(handle.kv_pages == 0, f"{handle} is retracted and has {handle.kv_pages} pages")


def _require_aborted(handle: ScriptedReqHandle, *, may_be_over: bool) -> None:
    ended = handle.status
    expected = ended is RequestStatus.ABORTED or (may_be_over and ended is RequestStatus.FINISHED)
    _require(expected, f"{handle} was aborted and ended by {handle.finish_reason}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)

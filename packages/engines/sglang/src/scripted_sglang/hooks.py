"""Hooks into SGLang's scheduler process, through its own hook registry; no file is patched."""

from __future__ import annotations

import gc
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

from scripted_core.wire.address import SessionAddress
from scripted_hook.attach import maybe_init_scripted_scheduler_hook
from scripted_hook.crash import reporting
from scripted_hook.scheduler_hook import Phase, ScriptedSchedulerHook

from scripted_sglang import _compat
from scripted_sglang.adapter import SglangAdapter
from scripted_sglang.environment import ENV_BASE_URL
from scripted_sglang.inbox import RankOp, wait_for_input

_IDLE_WAIT_S = 0.02
_MANAGERS = "sglang.srt.managers."
_RECEIVER = _MANAGERS + "scheduler_components.request_receiver.SchedulerRequestReceiver."
_SCHEDULER = _MANAGERS + "scheduler.Scheduler."
_STREAMER = _MANAGERS + "scheduler_components.output_streamer.SchedulerOutputStreamer."
_POOL_STATS = _MANAGERS + "scheduler_components.pool_stats_observer.SchedulerPoolStatsObserver."


class SchedulerProcess:
    """Our part in one scheduler process; complete once its event loop has begun."""

    def __init__(self, address: SessionAddress) -> None:
        self._address = address
        self._adapter: SglangAdapter | None = None
        self._hook: ScriptedSchedulerHook | None = None

    # -- the loop ------------------------------------------------------------------------------

    def run_event_loop(self, original: Callable[..., Any], scheduler: Any, *args: Any) -> Any:
        """AROUND: attach to the scheduler, run its loop, and report what ends it."""
        with reporting(self._address, rank=_rank_name(scheduler)):
            self._adapter = adapter = SglangAdapter(
                scheduler,
                version=importlib.metadata.version("sglang"),
                base_url=os.environ.get(ENV_BASE_URL, ""),
            )
            self._hook = maybe_init_scripted_scheduler_hook(
                scheduler,
                adapter=adapter,
                tokenizer_recv_proxy=adapter.proxy,
                http_poster=adapter.poster,
            )
            self._fired("run_event_loop")
            # SGLang collects garbage at every flush, which walks the whole heap (0.3 s on a CPU)
            # until it has frozen it; it does so itself only after its first warm-up.
            gc.collect()
            gc.freeze()
            return original(scheduler, *args)

    def before_receive(self, receiver: Any, *args: Any, **kwargs: Any) -> None:
        """BEFORE ``recv_requests``: one iteration begins."""
        if self._hook is None or self._adapter is None:
            return
        self._fired("recv_requests")
        self._hook.step()
        if self._hook.phase is Phase.FREE:
            self._rest(receiver)

    def _rest(self, receiver: Any) -> None:
        """An idle scheduler spins: between scripts, sleep until there is something to receive."""
        adapter = self._adapter
        hook = self._hook
        assert adapter is not None, "attached before the loop begins"
        assert hook is not None, "attached before the loop begins"
        wire = hook.pollables()
        if not adapter.is_driver or not wire or not adapter.is_fully_idle():
            return
        wait_for_input(
            [receiver.recv_from_tokenizer, receiver.recv_from_rpc, *wire], timeout_s=_IDLE_WAIT_S
        )

    def pull_raw_reqs(self, original: Callable[..., Any], receiver: Any) -> Any:
        """AROUND: what was read ahead and injected comes first, then what SGLang pulls itself."""
        pulled = original(receiver)
        adapter = self._adapter
        if adapter is None or adapter.proxy is None or pulled is None:
            return pulled
        self._fired("_pull_raw_reqs")
        return adapter.proxy.merge(pulled)

    def process_input_requests(
        self, original: Callable[..., Any], scheduler: Any, recv_reqs: list[Any]
    ) -> Any:
        """AROUND: apply our memory operations in their place among SGLang's messages.

        The list itself is relayed to other pipeline stages afterwards, so it is not changed.
        """
        self._fired("process_input_requests")
        if not any(isinstance(message, RankOp) for message in recv_reqs):
            return original(scheduler, recv_reqs)
        assert self._adapter is not None
        run: list[Any] = []
        for message in recv_reqs:
            if isinstance(message, RankOp):
                original(scheduler, run)
                run = []
                self._adapter.apply_rank_op(message)
            else:
                run.append(message)
        return original(scheduler, run)

    # -- events --------------------------------------------------------------------------------

    def before_run_batch(self, scheduler: Any, batch: Any, *args: Any, **kwargs: Any) -> None:
        """BEFORE ``run_batch``."""
        if self._hook is not None:
            self._hook.on_run_batch(batch)

    def before_stream_output(self, streamer: Any, reqs: Any, *args: Any, **kwargs: Any) -> None:
        """BEFORE ``stream_output``: a finish that has not been streamed yet is news."""
        if self._adapter is None:
            return
        for req in reqs:
            if req.finished() and not req.finished_output:
                self._adapter.report_finish(req, _compat.finish_reason_of(req))

    def before_abort_output(self, scheduler: Any, abort_req: Any, req: Any) -> None:
        """BEFORE ``send_abort_output``: an end outside the output stream."""
        if self._adapter is not None:
            given = abort_req.finished_reason
            reason = _compat.finish_reason_from(given or {"type": "abort", "message": "Aborted"})
            self._adapter.report_finish(req, reason)

    def flush_cache(
        self, original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """AROUND: SGLang's flush knows nothing of holds."""
        adapter = self._adapter
        if adapter is None:
            return original(scheduler, *args, **kwargs)
        ok = False if adapter.flush_blocked() else original(scheduler, *args, **kwargs)
        adapter.flushed(bool(ok))
        return ok

    # -- SGLang's leak checks ------------------------------------------------------------------

    def add_held_tokens(self, result: int, *args: Any) -> int:
        """AFTER ``session_held_tokens``."""
        return result + (0 if self._adapter is None else self._adapter.held_tokens)

    def add_held_rows(self, result: int, *args: Any) -> int:
        """AFTER ``session_held_req_count``."""
        return result + (0 if self._adapter is None else self._adapter.held_rows)

    def _fired(self, name: str) -> None:
        if self._adapter is not None:
            self._adapter.fired[name] = None


def register(address: SessionAddress) -> None:
    """Register every hook of ours; SGLang applies them after all plugins have registered."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    process = SchedulerProcess(address)
    for target, function, kind in (
        (_SCHEDULER + "run_event_loop", process.run_event_loop, HookType.AROUND),
        (_RECEIVER + "recv_requests", process.before_receive, HookType.BEFORE),
        (_RECEIVER + "_pull_raw_reqs", process.pull_raw_reqs, HookType.AROUND),
        (_SCHEDULER + "process_input_requests", process.process_input_requests, HookType.AROUND),
        (_SCHEDULER + "run_batch", process.before_run_batch, HookType.BEFORE),
        (_STREAMER + "stream_output", process.before_stream_output, HookType.BEFORE),
        (_SCHEDULER + "send_abort_output", process.before_abort_output, HookType.BEFORE),
        (_SCHEDULER + "flush_cache", process.flush_cache, HookType.AROUND),
        (_POOL_STATS + "session_held_tokens", process.add_held_tokens, HookType.AFTER),
        (_POOL_STATS + "session_held_req_count", process.add_held_rows, HookType.AFTER),
    ):
        HookRegistry.register(target, function, kind)


def _rank_name(scheduler: Any) -> str:
    return " ".join(["scheduler", *_compat.rank_names(scheduler)])

"""Hooks into SGLang's scheduler process, through its own hook registry; no file is patched."""

from __future__ import annotations

import gc
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

from scripted_core.errors import EngineError
from scripted_core.wire.address import SessionAddress, member_from_env, role_of_process
from scripted_hook.attach import maybe_init_scripted_scheduler_hook
from scripted_hook.crash import reporting
from scripted_hook.phase import Phase
from scripted_hook.plugin_calls import announce_engine
from scripted_hook.scheduler_hook import ScriptedSchedulerHook

from scripted_sglang import _compat
from scripted_sglang._compat import needs, own_canary, pinned_memory, torch_native
from scripted_sglang._compat.disaggregation import do_without_events
from scripted_sglang._compat.needs import Place
from scripted_sglang.adapter import SglangAdapter
from scripted_sglang.adapters import adapter_of
from scripted_sglang.arguments import source_folder
from scripted_sglang.environment import ENV_BASE_URL
from scripted_sglang.inbox import RankOp, wait_for_input
from scripted_sglang.kv_watch import WatchedAdapter
from scripted_sglang.pair import DecodeAdapter
from scripted_sglang.probes import TESTED_VERSIONS, find_place
from scripted_sglang.ranks import RankPlace
from scripted_sglang.traffic import Traffic

_IDLE_WAIT_S = 0.02


class SchedulerProcess:
    """Our part in one scheduler process; complete once its event loop has begun."""

    def __init__(self, address: SessionAddress) -> None:
        self._address = address
        self._adapter: SglangAdapter | None = None
        self._hook: ScriptedSchedulerHook | None = None
        self.traffic = Traffic()

    # -- the loop ------------------------------------------------------------------------------

    def run_event_loop(self, original: Callable[..., Any], scheduler: Any, *args: Any) -> Any:
        """AROUND: attach to the scheduler, run its loop, and report what ends it."""
        rank = " ".join(["scheduler", RankPlace.of(scheduler).name]).strip()
        # Until now it was one scheduler of several.
        self._address.announce(rank)
        with reporting(self._address, rank=role_of_process(rank, os.environ)):
            self._adapter = adapter = adapter_of(
                scheduler,
                version=importlib.metadata.version("sglang"),
                base_url=os.environ.get(ENV_BASE_URL) or _compat.front_url(scheduler),
                address=self._address,
                traffic=self.traffic,
            )
            self._hook = maybe_init_scripted_scheduler_hook(
                scheduler,
                adapter=adapter,
                tokenizer_recv_proxy=adapter.proxy,
                http_poster=adapter.poster,
            )
            if isinstance(adapter, WatchedAdapter):
                announce_engine(adapter)
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
        for facts in self._adapter.before_step():
            self._hook.on_run_batch(facts)
        self._hook.step()
        self._adapter.after_step()
        if self._hook.phase is Phase.FREE:
            self._rest(receiver)

    def _rest(self, receiver: Any) -> None:
        """An idle scheduler spins: between scripts, sleep until there is something to receive."""
        adapter = self._adapter
        hook = self._hook
        assert adapter is not None, "attached before the loop begins"
        assert hook is not None, "attached before the loop begins"
        wire = (*hook.pollables(), *adapter.pollables())
        if not wire or not adapter.is_fully_idle():
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
        if self._hook is not None and self._adapter is not None:
            self._hook.on_run_batch(batch)
            self._adapter.saw_batch(batch)

    def run_forward(
        self, original: Callable[..., Any], worker: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """AROUND ``forward_batch_generation``."""
        adapter = self._adapter
        if batch is None or not isinstance(adapter, WatchedAdapter):
            return original(worker, batch, *args, **kwargs)
        return adapter.run_forward(lambda: original(worker, batch, *args, **kwargs), batch)

    def before_stream_output(self, streamer: Any, reqs: Any, *args: Any, **kwargs: Any) -> None:
        """BEFORE ``stream_output``: a finish that has not been streamed yet is news."""
        if self._adapter is None:
            return
        for req in reqs:
            if req.finished() and not req.finished_output:
                self._adapter.report_finish(req, _compat.finish_reason_of(req))

    def before_abort_output(self, sender: Any, output: Any, req: Any = None) -> None:
        """BEFORE ``send_abort_output`` or what it stands for: an end outside the output stream."""
        if self._adapter is None or req is None or not _compat.is_abort_notice(output):
            return
        given = output.finished_reason
        reason = _compat.finish_reason_from(given or {"type": "abort", "message": "Aborted"})
        self._adapter.report_finish(req, reason)

    def send_output(
        self, original: Callable[..., Any], sender: Any, output: Any, answered: Any = None
    ) -> Any:
        """AROUND: nobody waits for the answer to a flush of ours, which 0.5.15's front dies of."""
        return None if _compat.is_our_flush(answered) else original(sender, output, answered)

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

    # -- pause of a pipeline -------------------------------------------------------------------

    def pause_generation(self, original: Callable[..., Any], scheduler: Any, request: Any) -> Any:
        """AROUND: under pipeline parallelism SGLang's own does not last."""
        adapter = self._adapter
        if adapter is None:
            return original(scheduler, request)
        return adapter.pipeline.pause(original, request)

    def continue_generation(
        self, original: Callable[..., Any], scheduler: Any, request: Any
    ) -> Any:
        """AROUND: not before a pause of a pipeline is complete."""
        adapter = self._adapter
        if adapter is None:
            return original(scheduler, request)
        return adapter.pipeline.resume(original, request)

    def get_next_batch_to_run(
        self, original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """AROUND: nothing to run in a paused pipeline."""
        adapter = self._adapter
        if adapter is None:
            return original(scheduler, *args, **kwargs)
        return adapter.pipeline.plan(original, *args, **kwargs)

    def after_abort_request(self, result: Any, scheduler: Any, request: Any) -> None:
        """AFTER: also what a paused pipeline or a paused decode server keeps elsewhere."""
        if self._adapter is not None:
            self._adapter.pipeline.abort(request)
            _compat.abort_what_waits_to_be_recomputed(scheduler, request)

    def is_fully_idle(
        self, original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """AROUND: also what a paused pipeline keeps elsewhere."""
        claimed = bool(original(scheduler, *args, **kwargs))
        adapter = self._adapter
        return claimed if adapter is None else adapter.pipeline.is_fully_idle(claimed)

    # -- a pair of servers ---------------------------------------------------------------------

    def before_recompute(self, manager: Any, receiver: Any, payload: Any) -> None:
        """BEFORE ``submit_prefill_recompute``: over HTTP, so that it is in no count of messages."""
        adapter, hook = self._adapter, self._hook
        if isinstance(adapter, DecodeAdapter) and hook is not None and hook.phase is not Phase.FREE:
            adapter.will_recompute(payload["rid"])

    # -- SGLang's leak checks ------------------------------------------------------------------

    def add_held_tokens(self, result: int, *args: Any) -> int:
        """AFTER ``session_held_tokens``."""
        return result + (0 if self._adapter is None else self._adapter.held_tokens["full"])

    def add_held_swa_tokens(self, result: int, *args: Any) -> int:
        """AFTER ``session_held_swa_tokens``."""
        return result + (0 if self._adapter is None else self._adapter.held_tokens.get("swa", 0))

    def add_held_rows(self, result: int, *args: Any) -> int:
        """AFTER ``session_held_req_count``."""
        return result + (0 if self._adapter is None else self._adapter.held_rows)

    def _fired(self, name: str) -> None:
        if self._adapter is not None:
            self._adapter.fired[name] = None


def register(address: SessionAddress) -> None:
    """Register every hook of ours; SGLang applies them after all plugins have registered.

    Raises ``EngineError`` where SGLang has no place for one that is required.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    package = source_folder()
    assert package is not None, "SGLang is running"
    process = SchedulerProcess(address)
    traffic = process.traffic
    pair = (
        (needs.MOONCAKE_MANAGER, do_without_events, HookType.BEFORE),
        (needs.KV_SEND, traffic.after_send, HookType.AFTER),
        (needs.KV_BOOTSTRAP_MESSAGE, traffic.after_bootstrap_message, HookType.AFTER),
        (needs.KV_ABORT_NOTIFICATION, traffic.after_abort_notification, HookType.AFTER),
        (needs.KV_RECEIVE, traffic.counted_receive, HookType.AROUND),
        (needs.KV_STATUS, traffic.prefill_status, HookType.AROUND),
        (needs.KV_CHUNK_PUT, traffic.put_chunk, HookType.AROUND),
        (needs.KV_CHUNK_GET, traffic.get_chunk, HookType.AROUND),
        (needs.KV_RECOMPUTE, process.before_recompute, HookType.BEFORE),
    )
    registered: list[tuple[Place, Callable[..., Any]]] = []
    for need, function, kind in (
        (needs.RUN_EVENT_LOOP, process.run_event_loop, HookType.AROUND),
        (needs.RECV_REQUESTS, process.before_receive, HookType.BEFORE),
        (needs.PULL_RAW_REQS, process.pull_raw_reqs, HookType.AROUND),
        (needs.PROCESS_INPUT_REQUESTS, process.process_input_requests, HookType.AROUND),
        (needs.RUN_BATCH, process.before_run_batch, HookType.BEFORE),
        (needs.STREAM_OUTPUT, process.before_stream_output, HookType.BEFORE),
        (needs.SEND_ABORT_OUTPUT, process.before_abort_output, HookType.BEFORE),
        (needs.SEND_OUTPUT, process.send_output, HookType.AROUND),
        (needs.FLUSH_CACHE, process.flush_cache, HookType.AROUND),
        (needs.PAUSE_GENERATION, process.pause_generation, HookType.AROUND),
        (needs.CONTINUE_GENERATION, process.continue_generation, HookType.AROUND),
        (needs.GET_NEXT_BATCH_TO_RUN, process.get_next_batch_to_run, HookType.AROUND),
        (needs.ABORT_REQUEST, process.after_abort_request, HookType.AFTER),
        (needs.IS_FULLY_IDLE, process.is_fully_idle, HookType.AROUND),
        (needs.SESSION_HELD_TOKENS, process.add_held_tokens, HookType.AFTER),
        (needs.SESSION_HELD_FULL_TOKENS, process.add_held_tokens, HookType.AFTER),
        (needs.SESSION_HELD_SWA_TOKENS, process.add_held_swa_tokens, HookType.AFTER),
        (needs.SESSION_HELD_REQ_COUNT, process.add_held_rows, HookType.AFTER),
        (needs.FORWARD, process.run_forward, HookType.AROUND),
        (needs.WINDOW_EXTEND, torch_native.read_windows, HookType.AROUND),
        (needs.WINDOW_DECODE, torch_native.read_windows, HookType.AROUND),
        (needs.LORA_MANAGER, pinned_memory.do_without_pinned_memory, HookType.BEFORE),
        (needs.OWN_CANARY, own_canary.do_without_device_streams, HookType.BEFORE),
        *(pair if member_from_env(os.environ) else ()),
    ):
        place = find_place(package, need)
        if place is not None:
            if (place, function) not in registered:  # two needs may have one place
                HookRegistry.register(place.dotted, function, kind)
            registered.append((place, function))
        elif need.required:
            raise EngineError(
                f"this SGLang has no {need.name}, which is hooked for: {need.purpose}",
                hint=f"use a tested release: {', '.join(TESTED_VERSIONS)}",
            )

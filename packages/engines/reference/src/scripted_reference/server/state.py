"""The engine's state, and what it has done so far, as the front asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from scripted_reference.engine import Engine
from scripted_reference.request import Req
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler
from scripted_reference.server.device_timer import DeviceTimer, device_timer
from scripted_reference.server.forward_meter import ForwardMeter, MeteredModel
from scripted_reference.server.wire import EngineState, ReplicaState


class _Replica:
    """What one replica has done since its start."""

    def __init__(self, scheduler: Scheduler, *, timer: DeviceTimer | None) -> None:
        self.scheduler = scheduler
        self.meter = ForwardMeter(timer=timer)
        scheduler.model = MeteredModel(scheduler.model, self.meter)
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.retractions_of_ended = 0

    def now(self) -> ReplicaState:
        scheduler, meter = self.scheduler, self.meter
        chunked = scheduler.chunked_req
        live = scheduler.requests.values()
        return ReplicaState(
            num_running=len(scheduler.running_batch.reqs) + (chunked is not None),
            num_waiting=len(scheduler.waiting_queue),
            chunked_rid=None if chunked is None else chunked.rid,
            tokens_total=scheduler.token_to_kv_pool_allocator.size,
            tokens_free=scheduler.token_to_kv_pool_allocator.available_size(),
            tokens_evictable=scheduler.tree_cache.evictable_size(),
            forwards_total=meter.forwards_total,
            prompt_tokens_total=self.prompt_tokens,
            cached_tokens_total=self.cached_tokens,
            generated_tokens_total=meter.generated_tokens_total,
            retractions_total=self.retractions_of_ended + sum(r.retraction_count for r in live),
            gen_throughput=meter.gen_throughput,
            fwd_occupancy=meter.fwd_occupancy,
            avg_spec_accept_length=None
            if scheduler.accept_lengths is None
            else scheduler.accept_lengths.mean,
        )


class EngineMonitor:
    """Counts what the replicas of an engine do, and times their forwards."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        args = engine.server_args
        timer = device_timer(args.device) if args.enable_metrics_device_timer else None
        self._replicas = tuple(_Replica(one, timer=timer) for one in engine.schedulers)
        # Where a request runs, and how many of its tokens have been counted.
        self._runs_on: dict[str, _Replica] = {}
        self._counted: dict[str, int] = {}

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        """Count the prompts whose first tokens are computed now."""
        if not batch.forward_mode.is_extend():
            return
        for req, cached in zip(batch.reqs, batch.prefix_lens, strict=True):
            if req.rid not in self._runs_on:
                replica = self._replica_of(req)
                replica.prompt_tokens += len(req.origin_input_ids)
                replica.cached_tokens += min(cached, len(req.origin_input_ids))

    def on_output(self, reqs: Sequence[Req]) -> None:
        """Count new tokens."""
        for req in reqs:
            known = self._counted.get(req.rid, 0)
            self._counted[req.rid] = len(req.output_ids)
            # A decode server has computed no prompt of it.
            replica = self._runs_on.get(req.rid) or self._replica_of(req)
            replica.meter.generated(len(req.output_ids) - known)

    def _replica_of(self, req: Req) -> _Replica:
        replica = next(one for one in self._replicas if req.rid in one.scheduler.requests)
        self._runs_on[req.rid] = replica
        return replica

    def on_finish(self, req: Req) -> None:
        """A request has ended; one that never ran is not counted."""
        self._counted.pop(req.rid, None)
        replica = self._runs_on.pop(req.rid, None)
        if replica is not None:
            replica.retractions_of_ended += req.retraction_count

    def on_idle(self) -> None:
        """The engine has nothing to do."""
        for replica in self._replicas:
            replica.meter.idle()

    def now(self) -> EngineState:
        """The state at this moment."""
        paused = self._engine.scheduler.paused
        watcher = self._engine.kv.kv_watcher
        return EngineState(
            paused=None if paused is None else paused.value,
            replicas=tuple(replica.now() for replica in self._replicas),
            is_idle=self._engine.is_fully_idle(),
            kv=None if watcher is None else watcher.report(),
        )

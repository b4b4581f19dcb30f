"""Prometheus metrics under SGLang's names, as far as they mean something here.

Counters and latencies are the front's own; gauges are read from the scheduler at each scrape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from scripted_core.kv_report import KvReport

from scripted_reference.server.generation import Generation
from scripted_reference.server.wire import EngineState, ReplicaState

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_GAUGES: Final = {
    "num_running_reqs": "The number of running requests.",
    "num_queue_reqs": "The number of requests in the waiting queue.",
    "num_used_tokens": "The number of used tokens.",
    "token_usage": "The token usage: used tokens over all tokens of the KV pool.",
    "max_total_num_tokens": "Tokens of the KV pool.",
    "gen_throughput": "The generation throughput (token/s) over the latest window of forwards.",
    "cache_hit_rate": "Cached over all prompt tokens since the start.",
    "num_retracted_requests": "Requests retracted since the start.",
    "num_paused_reqs": "Requests that a pause holds up.",
}
_OCCUPANCY: Final = (
    "Percent of time in model forwards over the latest window of forwards, NaN while idle."
)


class CanaryCollector(Collector):
    """What the canary of the KV has found: the scheduler counts, so nothing is counted here.

    SGLang has no metrics of its canary, and no name of its is taken.
    """

    def __init__(self, *, model_name: str) -> None:
        self._model_name = model_name
        self.report: KvReport | None = None

    def collect(self) -> Iterator[Metric]:
        """The families; also of a canary that is not there."""
        name, report = self._model_name, self.report
        running = GaugeMetricFamily(
            "scripted:kv_canary_running",
            "1 while it is told of every forward.",
            labels=("model_name",),
        )
        running.add_metric((name,), float(report is not None and not report.stopped))
        yield running
        if report is None:
            return
        violations = CounterMetricFamily(
            "scripted:kv_canary_violations",
            "KV slots that did not hold what they should.",
            labels=("model_name", "pool", "reason", "launch"),
        )
        for one in report.counts:
            violations.add_metric((name, one.pool, one.reason, one.launch), one.total)
        yield violations
        verified = CounterMetricFamily(
            "scripted:kv_canary_verified_slots", "KV slots verified.", labels=("model_name",)
        )
        verified.add_metric((name,), report.verified_slots_total)
        yield verified


class Metrics:
    """A registry of its own, so that several servers in one process do not meet."""

    def __init__(self, *, model_name: str, with_device_timer: bool, with_canary: bool) -> None:
        self._registry = CollectorRegistry()
        self._canary = CanaryCollector(model_name=model_name)
        if with_canary:
            self._registry.register(self._canary)
        self._model_name = model_name
        labels = ("model_name",)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"sglang:{name}", text, labels, registry=self._registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(
                f"sglang:{name}", text, labels, registry=self._registry, buckets=_SECONDS
            )

        self._prompt_tokens = counter("prompt_tokens_total", "Prefill tokens processed.")
        self._generated_tokens = counter("generation_tokens_total", "Generation tokens processed.")
        self._cached_tokens = counter("cached_tokens_total", "Cached prompt tokens.")
        self._requests = counter("num_requests_total", "Requests processed.")
        self._aborted = counter("num_aborted_requests_total", "Requests aborted.")
        self._first_token = histogram("time_to_first_token_seconds", "Time to first token.")
        self._inter_token = histogram("inter_token_latency_seconds", "Mean time between tokens.")
        self._e2e = histogram("e2e_request_latency_seconds", "End-to-end request latency.")

        def gauge(name: str, text: str) -> Gauge:
            by_rank = (*labels, "engine_type", "tp_rank", "pp_rank", "dp_rank")
            return Gauge(name, text, by_rank, registry=self._registry)

        self._gauges = {name: gauge(f"sglang:{name}", text) for name, text in _GAUGES.items()}
        # Without a timer there is nothing to tell, and a gauge that is always NaN would hide why.
        self._occupancy = (
            tuple(gauge(f"{who}:fwd_occupancy", _OCCUPANCY) for who in ("sglang", "scripted"))
            if with_device_timer
            else ()
        )
        for one in (self._prompt_tokens, self._generated_tokens, self._requests, self._aborted):
            one.labels(model_name)  # so that it is there, at 0, before the first request

    def observe_end(self, generation: Generation) -> None:
        """A request has ended, or its client has gone."""
        name = self._model_name
        self._requests.labels(name).inc()
        self._prompt_tokens.labels(name).inc(len(generation.spec.input_ids))
        self._generated_tokens.labels(name).inc(len(generation.output_ids))
        self._cached_tokens.labels(name).inc(generation.cached_tokens)
        if generation.finish is None or generation.finish.kind == "abort":
            self._aborted.labels(name).inc()
        first_s, ended_s = generation.first_token_s, generation.ended_s
        if first_s is None:
            return
        self._first_token.labels(name).observe(first_s - generation.begun_s)
        if ended_s is None:
            return
        self._e2e.labels(name).observe(ended_s - generation.begun_s)
        if len(generation.output_ids) > 1:
            gaps = len(generation.output_ids) - 1
            self._inter_token.labels(name).observe((ended_s - first_s) / gaps)

    def exposition(self, state: EngineState) -> tuple[bytes, str]:
        """The text of a scrape, and its content type."""
        for rank, replica in enumerate(state.replicas):
            values = _gauge_values(replica, is_paused=state.paused is not None)
            for name, gauge in self._gauges.items():
                gauge.labels(self._model_name, "unified", "0", "0", str(rank)).set(values[name])
            for gauge in self._occupancy:
                labels = (self._model_name, "unified", "0", "0", str(rank))
                gauge.labels(*labels).set(replica.fwd_occupancy)
        self._canary.report = state.kv
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


def _gauge_values(replica: ReplicaState, *, is_paused: bool) -> dict[str, float]:
    used = replica.tokens_total - replica.tokens_free - replica.tokens_evictable
    return {
        "num_running_reqs": replica.num_running,
        "num_queue_reqs": replica.num_waiting,
        "num_used_tokens": used,
        "token_usage": used / replica.tokens_total,
        "max_total_num_tokens": replica.tokens_total,
        "gen_throughput": replica.gen_throughput,
        "cache_hit_rate": replica.cached_tokens_total / max(replica.prompt_tokens_total, 1),
        "num_retracted_requests": replica.retractions_total,
        "num_paused_reqs": replica.num_running + replica.num_waiting if is_paused else 0,
    }

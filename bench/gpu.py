"""SGLang on a GPU, one measurement a process: ``python -m bench.gpu WHAT OUT [NAME=VALUE ...]``.

``steps`` times what a script does on our session. ``free`` measures a server that runs no script, with
the hook attached and without; ``occupancy`` does so with the occupancy kit. ``reference`` runs the
scenarios of one device on the reference engine's transformer, and needs no SGLang; ``speculation`` runs
them on SGLang with EAGLE3 or another draft. Several such processes may start their servers at once,
which takes most of the time; each then says that it is ready, and measures when a line arrives at its
standard input.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from scripted_core.sessions import ScriptedHttpServer
from scripted_kit_client.output.as_json import report_object
from scripted_kit_client.target import Target
from scripted_kit_occupancy.kit import OCCUPANCY, OccupancyOptions
from scripted_sglang.launch import default_kwargs
from scripted_sglang.tiny_model import write_tiny_model

from bench import scripts
from bench.free_running import (
    Comparison,
    FreeServer,
    Interval,
    Load,
    both_servers,
    compare_free_running,
    median_of,
)
from bench.gpu_models import enlarge
from bench.gpu_process import quartiles, wait_for_the_word
from bench.gpu_scenarios import reference, speculation
from bench.server_times import Plan, measure_server
from bench.servers import end_orderly, hold_still, let_go_on, running

CONTEXT_TOKENS: Final = 4096
PAIRS: Final = 6
# A gauge of how much of the time the GPU computes; SGLang keeps it for these two.
METRICS_ENV: Final = {"SGLANG_ENABLE_METRICS_DEVICE_TIMER": "1"}


def main() -> None:
    """Start, say so, wait for the word, measure, and write the figures."""
    end_orderly()
    what, out, *given = sys.argv[1:]
    kwargs = {name: json.loads(value) for name, _, value in (text.partition("=") for text in given)}
    with tempfile.TemporaryDirectory(prefix="scripted-gpu-") as folder:
        figures = MEASUREMENTS[what](kwargs, Path(folder))
    Path(out).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def steps(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Milliseconds of what a script does, on a server of our session that is started for it."""
    kwargs = _kwargs(given, folder, max_total_tokens=8192)
    start = time.perf_counter()
    server = ScriptedHttpServer.start(backend="sglang", **kwargs)
    started_s = time.perf_counter() - start
    try:
        hold_still(server.main_pid)
        wait_for_the_word()
        let_go_on(server.main_pid)

        def execute(
            script: Callable[..., Any], args: tuple[Any, ...], *, check_invariants: bool
        ) -> None:
            server.execute_script(script, args=args, check_invariants=check_invariants)

        plan = Plan(engine_kwargs=kwargs)
        times = measure_server(partial(execute, check_invariants=False), plan=plan)
        only_decode = replace(plan, requests=1, resets=1)
        checked = measure_server(partial(execute, check_invariants=True), plan=only_decode)
        start = time.perf_counter()
    finally:
        let_go_on(server.main_pid)
        server.shutdown()
    ended_s = time.perf_counter() - start
    return {
        "arguments": given,
        "capabilities": sorted(server.capabilities),
        "start_s": started_s,
        "shutdown_s": ended_s,
        "arrival_ms": quartiles([one * 1e3 for one in times.arrival]),
        "reset_ms": quartiles([one * 1e3 for one in times.reset]),
        "decode_ms": quartiles([one * 1e3 for one in times.decode]),
        "decode_checked_ms": quartiles([one * 1e3 for one in checked.decode]),
    }


def free(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Throughput and occupancy without a script, with the hook and without it, in pairs."""
    requests = given.pop("requests", 8)
    new_tokens = given.pop("new_tokens", 1200)
    pairs = given.pop("pairs", PAIRS)
    with _both_servers(given, folder) as (plain, hooked, on_gpu):
        wait_for_the_word()
        load = Load(requests, new_tokens)
        found = compare_free_running(plain, hooked, load=load, pairs=pairs, occupancy=on_gpu)
    return {
        "arguments": given,
        "requests": requests,
        "new_tokens": new_tokens,
        "pairs": pairs,
        "throughput_ratio": quartiles(found.throughput_ratios()),
        "cpu_ratio": quartiles(found.cpu_ratios()),
        "plain": _medians(found.plain),
        "hooked": _medians(found.hooked),
        "intervals": _as_json(found),
    }


def occupancy(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the occupancy kit says of the plain server and of the one with the hook, in turn.

    ``scrape_interval_s`` and ``max_new_tokens`` are the kit's options.
    """
    pairs = given.pop("pairs", 2)
    options = OccupancyOptions(
        scrape_interval_s=given.pop("scrape_interval_s", 0.25),
        max_new_tokens=given.pop("max_new_tokens", 2048),
    )
    reports: dict[str, list[dict[str, Any]]] = {"plain": [], "hooked": []}
    with _both_servers(given, folder) as (plain, hooked, _):
        wait_for_the_word()
        for number in range(pairs):
            sides = [("plain", plain), ("hooked", hooked)]
            for name, server in sides if number % 2 == 0 else reversed(sides):
                with running(server.group):
                    report = OCCUPANCY(Target(url=server.base_url), options=options)
                reports[name].append(report_object(report))
    return {"arguments": given, "kit": reports}


@contextlib.contextmanager
def _both_servers(
    given: dict[str, Any], folder: Path
) -> Iterator[tuple[FreeServer, FreeServer, bool]]:
    """A plain server and one with the hook, and whether they tell their occupancy."""
    kwargs = _kwargs(given, folder, max_total_tokens=8 * CONTEXT_TOKENS)
    # The timer behind the gauge is CUDA's.
    on_gpu = kwargs.get("device") != "cpu"
    kwargs["enable_metrics"] = on_gpu
    env = METRICS_ENV if on_gpu else {}
    with both_servers(kwargs, folder=folder / "logs", env=env) as (plain, hooked):
        yield plain, hooked, on_gpu


def _kwargs(given: dict[str, Any], folder: Path, *, max_total_tokens: int) -> dict[str, Any]:
    """Engine arguments; ``model`` is ``tiny`` or a size; other names are SGLang's own."""
    device = given.get("device", "cuda")
    model = given.pop("model", "tiny")
    path = write_tiny_model(folder / "model", context_length=CONTEXT_TOKENS)
    kwargs: dict[str, Any] = {
        **default_kwargs(cpu=device == "cpu"),
        "max_total_tokens": max_total_tokens,
        "max_running_requests": scripts.DECODING,
        "model_path": str(path),
        **given,
    }
    if model != "tiny":
        enlarge(path, model)
        kwargs["load_format"] = "dummy"
    if device != "cpu":
        # Several servers share the GPU; what each takes is bounded by its tokens.
        kwargs["mem_fraction_static"] = 0.85
    return kwargs


def _medians(intervals: list[Interval]) -> Mapping[str, float | None]:
    names = ("tokens_per_s", "scheduler_us_per_step", "occupancy")
    return {name: median_of(intervals, name) for name in names}


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        side: [vars(interval) for interval in intervals]
        for side, intervals in (("plain", found.plain), ("hooked", found.hooked))
    }


MEASUREMENTS: Final[dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]]] = {
    "steps": steps,
    "free": free,
    "occupancy": occupancy,
    "reference": reference,
    "speculation": speculation,
}


if __name__ == "__main__":
    main()

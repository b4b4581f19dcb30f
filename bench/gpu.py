"""SGLang on a GPU, one measurement a process: ``python -m bench.gpu WHAT OUT [NAME=VALUE ...]``.

``steps`` times what a script does on our session. ``free`` measures a server that runs no script, with
the hook attached and without. ``reference`` runs the scenarios of one device on the reference engine's
transformer, and needs no SGLang. Several such processes may start their servers at once, which takes
most of the time; each then says that it is ready, and measures when a line arrives at its standard
input.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

from scripted_backend_single import (
    PRESSURES,
    SCENARIOS,
    compare_with_undisturbed,
    single_device_kwargs,
)
from scripted_core import InProcessSession, ScriptedContext
from scripted_core.errors import ScriptFailed
from scripted_core.sessions import ScriptedHttpServer
from scripted_sglang.launch import default_kwargs
from scripted_sglang.tiny_model import write_tiny_model

from bench import scripts
from bench.free_running import (
    Comparison,
    Interval,
    Load,
    both_servers,
    compare_free_running,
    median_of,
)
from bench.server_times import Plan, measure_server
from bench.servers import end_orderly, hold_still, let_go_on

READY: Final = "ready"
CONTEXT_TOKENS: Final = 4096
PAIRS: Final = 6
# A gauge of how much of the time the GPU computes; SGLang keeps it for these two.
METRICS_ENV: Final = {"SGLANG_ENABLE_METRICS_DEVICE_TIMER": "1"}
_SCENARIOS_S: Final = 35.0
LAYERS_OF_0_6B: Final[dict[str, int]] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def main() -> None:
    """Start, say so, wait for the word, measure, and write the figures."""
    end_orderly()
    what, out, *given = sys.argv[1:]
    kwargs = {name: json.loads(value) for name, _, value in (text.partition("=") for text in given)}
    with tempfile.TemporaryDirectory(prefix="scripted-gpu-") as folder:
        measure = {"steps": steps, "free": free, "reference": reference}[what]
        figures = measure(kwargs, Path(folder))
    Path(out).write_text(json.dumps(figures, indent=1), encoding="utf-8")


def steps(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Milliseconds of what a script does, on a server of our session that is started for it."""
    kwargs = _kwargs(given, folder, max_total_tokens=8192)
    start = time.perf_counter()
    server = ScriptedHttpServer.start(backend="sglang", **kwargs)
    started_s = time.perf_counter() - start
    try:
        hold_still(server.main_pid)
        _wait_for_the_word()
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
        "arrival_ms": _quartiles([one * 1e3 for one in times.arrival]),
        "reset_ms": _quartiles([one * 1e3 for one in times.reset]),
        "decode_ms": _quartiles([one * 1e3 for one in times.decode]),
        "decode_checked_ms": _quartiles([one * 1e3 for one in checked.decode]),
    }


def free(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Throughput and occupancy without a script, with the hook and without it, in pairs."""
    requests = given.pop("requests", 8)
    new_tokens = given.pop("new_tokens", 1200)
    pairs = given.pop("pairs", PAIRS)
    kwargs = _kwargs(given, folder, max_total_tokens=8 * CONTEXT_TOKENS)
    # The timer behind the gauge is CUDA's.
    on_gpu = kwargs.get("device") != "cpu"
    kwargs["enable_metrics"] = on_gpu
    env = METRICS_ENV if on_gpu else {}
    with both_servers(kwargs, folder=folder / "logs", env=env) as (plain, hooked):
        _wait_for_the_word()
        load = Load(requests, new_tokens)
        found = compare_free_running(plain, hooked, load=load, pairs=pairs, occupancy=on_gpu)
    return {
        "arguments": given,
        "requests": requests,
        "new_tokens": new_tokens,
        "pairs": pairs,
        "throughput_ratio": _quartiles(found.throughput_ratios()),
        "cpu_ratio": _quartiles(found.cpu_ratios()),
        "plain": _medians(found.plain),
        "hooked": _medians(found.hooked),
        "intervals": _as_json(found),
    }


def reference(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The trained checkpoint on the reference engine: scenarios, the time of a step, and its tokens.

    ``differing`` counts prompts that are answered otherwise than on the CPU.
    """
    _wait_for_the_word()
    device = given.get("device", "cuda")
    end = time.monotonic() + _SCENARIOS_S
    passed, failed, not_run = 0, [], 0
    seconds: list[float] = []
    with _reference(device) as session:
        file = folder / "seconds.json"
        session.execute_script(scripts.decode, args=(str(file),), check_invariants=False)
        seconds += json.loads(file.read_text(encoding="utf-8"))
        ours = _answers(session)
        for scenario, pressure in product(SCENARIOS, PRESSURES):
            if time.monotonic() > end:
                not_run += 1
                continue
            try:
                session.execute_script(
                    compare_with_undisturbed, kwargs={"scenario": scenario, "pressure": pressure}
                )
                passed += 1
            except ScriptFailed as failure:
                failed.append(f"{scenario} under {pressure}: {failure}"[:2000])
    with _reference("cpu") as session:
        others = _answers(session)
    return {
        "arguments": given,
        "passed": passed,
        "failed": failed,
        "not_run": not_run,
        "decode_ms": _quartiles([one * 1e3 for one in seconds]),
        "answers": len(ours),
        "differing": sum(mine != other for mine, other in zip(ours, others, strict=True)),
    }


def _reference(device: str) -> InProcessSession:
    return InProcessSession.start(
        backend="reference",
        device=device,
        **single_device_kwargs(model_path="tiny", max_total_tokens=8192),
    )


def _answers(session: InProcessSession) -> list[list[int]]:
    """Greedy answers to a few prompts, all at once."""
    answers: list[list[int]] = []

    def script(t: ScriptedContext) -> Iterator[None]:
        handles = [
            t.start_req(prompt_len=40 + 20 * seed, seed=seed, max_new_tokens=64, ignore_eos=True)
            for seed in range(scripts.DECODING)
        ]
        while not all(handle.finished for handle in handles):
            yield
        answers.extend(handle.output_ids for handle in handles)

    session.execute_script(script)
    return answers


def _kwargs(given: dict[str, Any], folder: Path, *, max_total_tokens: int) -> dict[str, Any]:
    """Engine arguments; ``model`` is ``tiny`` or ``0.6B``, and every other name SGLang's own."""
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
    if model == "0.6B":
        _enlarge(path)
        kwargs["load_format"] = "dummy"
    if device != "cpu":
        # Several servers share the GPU; what each takes is bounded by its tokens.
        kwargs["mem_fraction_static"] = 0.85
    return kwargs


def _enlarge(model: Path) -> None:
    """The layers of a Qwen3 of 0.6 billion parameters, on the small vocabulary, without weights."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {**LAYERS_OF_0_6B, "torch_dtype": "bfloat16"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _wait_for_the_word() -> None:
    print(READY, flush=True)
    if not sys.stdin.readline():
        raise SystemExit("nobody is there to say when to measure")


def _quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "samples": len(values)}


def _medians(intervals: list[Interval]) -> Mapping[str, float | None]:
    names = ("tokens_per_s", "scheduler_us_per_step", "occupancy")
    return {name: median_of(intervals, name) for name in names}


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        side: [vars(interval) for interval in intervals]
        for side, intervals in (("plain", found.plain), ("hooked", found.hooked))
    }


if __name__ == "__main__":
    main()

"""The scenarios of one device under pressure, outside pytest: counted, with what failed.

On the reference engine's transformer on a GPU, and on SGLang that speculates, which needs a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
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
from scripted_core.errors import ScriptedError, ScriptFailed
from scripted_core.sessions import ScriptedHttpServer
from scripted_models import checkpoint
from scripted_sglang.launch import default_kwargs

from bench import scripts
from bench.gpu_models import write_eagle3_draft
from bench.gpu_process import quartiles, wait_for_the_word

SCENARIOS_S: Final = 35.0
# SGLang's own arguments for EAGLE3 on one chain: an iteration gives a request 1 to 4 tokens.
CHAIN: Final = {
    "speculative_num_steps": 3,
    "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4,
}
_ANSWER_TOKENS: Final = 64
_STEPS_AT_MOST: Final = 1000
# On a machine that has compiled nothing yet, the first forward takes a minute.
_STALL_TIMEOUT_S: Final = 240.0

Execute = Callable[..., object]


def reference(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The trained checkpoint on the reference engine: scenarios, the time of a step, and its tokens.

    ``differing`` counts prompts that are answered otherwise than on the CPU.
    """
    wait_for_the_word()
    device = given.get("device", "cuda")
    with _reference(device) as session:
        file = folder / "seconds.json"
        session.execute_script(scripts.decode, args=(str(file),), check_invariants=False)
        seconds: list[float] = json.loads(file.read_text(encoding="utf-8"))
        ours = _answers(session.execute_script, folder)
        found = _scenarios(session.execute_script)
    return {
        "arguments": given,
        **found,
        "decode_ms": quartiles([one * 1e3 for one in seconds]),
        **_beside_the_cpu(ours["answers"], folder),
    }


def speculation(given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """SGLang that guesses and verifies: scenarios, tokens an iteration, and the tokens themselves.

    ``algorithm`` is ``EAGLE3``, whose draft is written here with random weights, or ``STANDALONE``,
    whose draft is the trained one. ``differing`` counts prompts that are answered otherwise than by
    the reference engine on a CPU, in float32 and without a draft.
    """
    algorithm = given.pop("algorithm", "EAGLE3")
    seconds = given.pop("seconds", SCENARIOS_S)
    target = checkpoint("tiny")
    draft = (
        checkpoint("tiny-draft")
        if algorithm == "STANDALONE"
        else write_eagle3_draft(folder / "draft", target=target)
    )
    kwargs = {
        **default_kwargs(cpu=given.get("device") == "cpu"),
        **single_device_kwargs(model_path=str(target), max_total_tokens=8192),
        "speculative_algorithm": algorithm,
        "speculative_draft_model_path": str(draft),
        **CHAIN,
        **given,
    }
    start = time.perf_counter()
    server = ScriptedHttpServer.start(backend="sglang", stall_timeout_s=_STALL_TIMEOUT_S, **kwargs)
    started_s = time.perf_counter() - start
    try:
        _answers(server.execute_script, folder)  # compiles
        wait_for_the_word()
        ours = _answers(server.execute_script, folder)
        found = _scenarios(server.execute_script, seconds=seconds)
    finally:
        server.shutdown()
    return {
        "arguments": {"algorithm": algorithm, **given},
        "capabilities": sorted(server.capabilities),
        "start_s": started_s,
        "tokens_per_step": ours["tokens_per_step"],
        **found,
        **_beside_the_cpu(ours["answers"], folder),
    }


def _scenarios(execute: Execute, *, seconds: float = SCENARIOS_S) -> dict[str, Any]:
    """Run every scenario under every pressure while there is time."""
    end = time.monotonic() + seconds
    passed, failed, broken, not_run = 0, [], [], 0
    for scenario, pressure in product(SCENARIOS, PRESSURES):
        if time.monotonic() > end:
            not_run += 1
            continue
        name = f"{scenario} under {pressure}"
        try:
            execute(compare_with_undisturbed, kwargs={"scenario": scenario, "pressure": pressure})
            passed += 1
        except ScriptFailed as failure:
            failed.append(f"{name}: {failure}"[:2000])
        except ScriptedError as error:
            # The server may be gone; what was found so far is worth having.
            broken.append(f"{name}: {type(error).__name__}: {error}"[:4000])
            break
    return {"passed": passed, "failed": failed, "broken": broken, "not_run": not_run}


def _reference(device: str) -> InProcessSession:
    return InProcessSession.start(
        backend="reference",
        device=device,
        **single_device_kwargs(model_path="tiny", max_total_tokens=8192),
    )


def _beside_the_cpu(ours: list[list[int]], folder: Path) -> dict[str, int]:
    with _reference("cpu") as session:
        others = _answers(session.execute_script, folder)["answers"]
    return {
        "answers": len(ours),
        "differing": sum(mine != other for mine, other in zip(ours, others, strict=True)),
    }


def _answers(execute: Execute, folder: Path) -> dict[str, Any]:
    """Greedy answers to a few prompts, all at once, and how many tokens an iteration gave."""
    file = folder / "answers.json"
    execute(write_answers, kwargs={"file": str(file)})
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def write_answers(t: ScriptedContext, *, file: str) -> Iterator[None]:
    """Write the answers to prompts that run side by side, and their tokens a decode step."""
    handles = [
        t.start_req(
            prompt_len=40 + 20 * seed, seed=seed, max_new_tokens=_ANSWER_TOKENS, ignore_eos=True
        )
        for seed in range(scripts.DECODING)
    ]
    steps = 0
    for _ in range(_STEPS_AT_MOST):
        if all(handle.finished for handle in handles):
            break
        before = [len(handle.output_ids) for handle in handles]
        yield
        # A step of a request that had a token already, and so was past its prompt.
        steps += sum(
            0 < old < len(handle.output_ids) for old, handle in zip(before, handles, strict=True)
        )
    else:
        raise AssertionError(f"{handles} have not finished after {_STEPS_AT_MOST} steps")
    answers = [handle.output_ids for handle in handles]
    decoded = sum(len(answer) - 1 for answer in answers)
    found = {"answers": answers, "tokens_per_step": decoded / max(steps, 1)}
    Path(file).write_text(json.dumps(found), encoding="utf-8")

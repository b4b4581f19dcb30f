"""A pair says what one engine says that does both: tokens, and log probabilities."""

from __future__ import annotations

import contextlib
import importlib.util
import random

import pytest
from scripted_backend_pd import Prompt, pair_kwargs, responses_of, single_device_kwargs_of
from scripted_chunked import run_until_all_finished
from scripted_core import InProcessSession
from scripted_core.errors import ExhaustError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="pd", runner_config="cpu")

_PROMPTS = (
    Prompt(20, seed=1, shared=100),
    Prompt(150, seed=2, shared=100),
    Prompt(70, seed=3),
    Prompt(1, seed=4),
)
LOGPROB_TOLERANCE = 0.0
"""The reference engine's floats do not depend on what else is in the batch, so there is none."""

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not installed"
)


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("overlap", [False, True], ids=["serial", "overlap"])
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("model", ["hash", pytest.param("tiny", marks=needs_torch)])
def test_outputs_equal_those_of_one_engine(model, page_size, overlap, warm):
    kwargs = pair_kwargs(
        model_path=model, page_size=page_size, disable_overlap_schedule=not overlap
    )
    pair = responses_of(_PROMPTS, kwargs, warm=warm)
    assert pair == responses_of(_PROMPTS, single_device_kwargs_of(kwargs))
    assert len({response.output_ids for response in pair}) == len(_PROMPTS)


def _logprobs(kwargs, *, warm=False):
    found = []

    def script(t):
        if warm:
            yield from run_until_all_finished([prompt.start(t) for prompt in _PROMPTS])
        handles = [
            prompt.start(t, return_logprob=True, logprob_start_len=5, top_logprobs_num=2)
            for prompt in _PROMPTS[:3]
        ]
        seen = {}
        while not all(handle.finished for handle in handles):
            for handle in handles:
                req = handle.req
                if req is not None:
                    seen[handle.rid] = req
            yield
        found.extend(
            (seen[handle.rid].input_logprobs, seen[handle.rid].output_logprobs)
            for handle in handles
        )

    with InProcessSession.start(backend="reference", **kwargs) as session:
        session.execute_script(script)
    return found


@needs_torch
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_log_probabilities_travel_with_the_kv(warm):
    kwargs = pair_kwargs(model_path="tiny", page_size=4)
    pair, single = _logprobs(kwargs, warm=warm), _logprobs(single_device_kwargs_of(kwargs))
    for (prompt, output), (prompt_of_one, output_of_one) in zip(pair, single, strict=True):
        assert [one.token_id for one in output] == [one.token_id for one in output_of_one]
        assert len(prompt) == len(prompt_of_one) > 0
        for mine, other in zip(prompt + output, prompt_of_one + output_of_one, strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=LOGPROB_TOLERANCE, rel=0)


def _random_walk(t, seed):
    """Everything that can be done to a pair, at random, and nothing comes out wrong."""
    rng = random.Random(seed)
    t.transfer.resume()
    prompts, handles = [], []
    for _ in range(150):
        live = [handle for handle in handles if not handle.finished]
        pending = t.transfer.pending
        action = rng.choice(
            ["start"] * 4
            + ["abort", "pause", "continue", "continue", "side", "hold", "resume", "resume"]
            + ["step", "delay", "reorder", "drop", "duplicate", "exhaust", "release"]
            + ["yield"] * 12
        )
        if action == "start" and len(live) < 12:
            prompts.append(Prompt(rng.randint(1, 300), rng.randint(1, 9**6), rng.choice([0, 64])))
            handles.append(prompts[-1].start(t))
        elif action == "abort" and live:
            rng.choice([t, t.prefill, t.decode]).abort(rng.choice(live))
        elif action in ("pause", "side"):
            which = t if action == "pause" else rng.choice([t.prefill, t.decode])
            which.pause_generation(mode=rng.choice(["retract", "in_place"]))
        elif action == "continue":
            t.continue_generation()
        elif action == "hold":
            t.transfer.hold()
        elif action == "resume":
            t.transfer.resume()
        elif action == "step":
            t.transfer.step(rng.randint(1, 3))
        elif action in ("delay", "duplicate") and pending:
            getattr(t.transfer, action)(rng.choice(pending), iterations=rng.randint(1, 9))
        elif action == "reorder" and pending:
            t.transfer.reorder(rng.sample(pending, rng.randint(1, len(pending))))
        elif action == "drop" and pending and rng.random() < 0.3:
            t.transfer.drop(rng.choice(pending))
        elif action == "exhaust":
            side = rng.choice([t.prefill, t.decode])
            stats = side.engine_stats()
            reachable = stats["kv_pool_free"] + stats["kv_pool_evictable"]
            side.exhaust_kv(leave_pages=rng.randint(0, reachable))
        elif action == "release":
            t.release_exhausted()
        with contextlib.suppress(ExhaustError):  # requests were faster
            yield
    t.release_exhausted()
    t.continue_generation()
    t.transfer.resume()
    for _ in range(1500):
        if t.is_fully_idle:
            break
        yield
    assert t.is_fully_idle
    assert not any(t.get_all_node_lock_refs().values())
    return [
        (prompt, handle.output_ids)
        for prompt, handle in zip(prompts, handles, strict=True)
        if handle.status == "finished"
    ]


@pytest.mark.parametrize("seed", range(12))
def test_a_random_walk_leaves_outputs_and_memory_right(seed):
    kwargs = pair_kwargs(
        page_size=[1, 4, 16][seed % 3],
        disable_overlap_schedule=seed % 2 == 0,
        num_reserved_decode_tokens=[512, 2][seed % 2],
        decode_kwargs={"max_total_tokens": 768},
    )
    finished = []

    def script(t):
        finished.extend((yield from _random_walk(t, seed)))

    with InProcessSession.start(backend="reference", **kwargs) as session:
        session.execute_script(script)
    assert finished, "nothing came to its end"
    right = responses_of([prompt for prompt, _ in finished], single_device_kwargs_of(kwargs))
    assert [output for _, output in finished] == [list(one.output_ids) for one in right]

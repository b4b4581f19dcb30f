"""Sampling and log probabilities: reproducible, and the same however a prompt was computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripted_reference.models.base import ReqLogprobs, TokenLogprobs
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="reference", runner_config="cpu")

torch = pytest.importorskip("torch", reason="torch is not installed; the tiny model needs it")

Prompt = Callable[[object, int], list[int]]


def test_noise_is_gumbel_and_depends_on_seed_position_and_token() -> None:
    from scripted_reference.models.sampling import gumbel_noise

    noise = gumbel_noise(seed=1, position=5, count=50_000)
    assert abs(noise.mean() - 0.5772) < 0.02  # Euler's constant
    assert abs(noise.std() - 1.2825) < 0.02  # pi / sqrt(6)
    assert np.array_equal(noise[:100], gumbel_noise(seed=1, position=5, count=100))
    assert len(set(noise.tolist())) == len(noise)
    assert not np.isin(noise, gumbel_noise(seed=1, position=6, count=50_000)).any()
    assert not np.isin(noise, gumbel_noise(seed=2, position=5, count=50_000)).any()


def test_samples_follow_the_softmax() -> None:
    from scripted_reference.models.sampling import sample

    logits = np.array([0.0, 1.0, 2.0, -30.0], dtype=np.float32)
    for temperature in (1.0, 2.0):
        weights = np.exp(logits / temperature)
        wanted = weights / weights.sum()
        drawn = Counter(
            sample(logits, temperature=temperature, seed=seed, position=9) for seed in range(4000)
        )
        for token in range(4):
            assert abs(drawn[token] / 4000 - wanted[token]) < 0.03


def test_sampled_output_is_independent_of_the_batch(
    lab: Any, config_folder: Callable[..., Path], random_prompt: Prompt
) -> None:
    it = lab(config_folder(), seed=11)
    ids = random_prompt("p", 30)
    wish = {"temperature": 1.0, "seed": 5}
    alone = it.generate(ids, 12, **wish)
    assert alone == it.generate(ids, 12, **wish)
    assert alone != it.generate(ids, 12)
    assert alone != it.generate(ids, 12, temperature=1.0, seed=6)
    # Without a seed of its own it samples with the engine's.
    assert it.generate(ids, 12, temperature=1.0) == it.generate(ids, 12, temperature=1.0, seed=11)
    for temperature in (0.0, 5e-324, 1e-320, 9e-7):
        assert it.generate(ids, 12, temperature=temperature) == it.generate(ids, 12)
    # In company, and going on after a retraction: prompt and output so far are prefilled again.
    req = it.request(ids, **wish)
    greedy = it.request(random_prompt("q", 50))
    reqs = [greedy, req]
    it.append(reqs, it.extend((greedy, 50), (req, 30)))
    it.decode(reqs, 4)
    again = it.request(ids, **wish)
    again.output_ids = req.output_ids[:5]
    again.init_next_round_input()
    it.append([again], it.extend((again, 35)))
    it.decode([again], 6)
    assert again.output_ids == alone


@pytest.mark.filterwarnings("error")
def test_tiny_temperatures_choose_the_likeliest() -> None:
    from scripted_reference.models.sampling import sample

    logits = np.array([1.0, -3e38, 3e38, 2.9e38], dtype=np.float32)
    for temperature in (5e-324, 1e-320, 1e-6):
        assert sample(logits, temperature=temperature, seed=1, position=9) == 2


def _logprobs(it: Any, ids: list[int], chunks: list[int], **wishes: Any) -> list[ReqLogprobs]:
    req = it.request(ids, return_logprob=True, **wishes)
    silent = it.request(ids)
    found = []
    for chunk in chunks:
        result = it.extend((silent, 1), (req, chunk))
        assert result.logprobs[0] is None
        found.append(result.logprobs[1])
    return found


def test_prompt_logprobs(
    lab: Any, config_folder: Callable[..., Path], random_prompt: Prompt, device: str
) -> None:
    it = lab(config_folder(), device=device)
    ids = random_prompt("p", 40)
    table = torch.log_softmax(it.model.logits(it.batch((it.request(ids), 40))), dim=-1)
    whole = _logprobs(it, ids, [40], logprob_start_len=0, top_logprobs_num=3)[0]
    assert whole.prompt[0] == TokenLogprobs(ids[0], None)
    assert [entry.token_id for entry in whole.prompt] == ids
    for position in range(1, 40):
        entry = whole.prompt[position]
        assert entry.logprob == pytest.approx(float(table[position - 1, ids[position]]), abs=1e-6)
        top = torch.topk(table[position - 1], 3)
        assert [token for token, _ in entry.top] == top.indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(top.values.tolist(), abs=1e-6)
    assert whole.output.token_id == int(table[39].argmax())
    assert whole.output.logprob == pytest.approx(float(table[39].max()), abs=1e-6)
    assert whole.output.top[0] == (whole.output.token_id, whole.output.logprob)
    # In chunks each position comes once, bit for bit the same.
    parts = _logprobs(it, ids, [1, 7, 8, 24], logprob_start_len=0, top_logprobs_num=3)
    assert [entry for part in parts for entry in part.prompt] == list(whole.prompt)
    assert parts[-1].output == whole.output
    late = _logprobs(it, ids, [16, 24], logprob_start_len=17)
    assert late[0].prompt == ()
    assert [entry[:2] for entry in late[1].prompt] == [entry[:2] for entry in whole.prompt[17:]]
    assert late[1].prompt[0].top == ()
    assert [part.prompt for part in _logprobs(it, ids, [40])] == [()]


def test_decoding_has_output_logprobs_only(
    lab: Any, config_folder: Callable[..., Path], random_prompt: Prompt
) -> None:
    it = lab(config_folder())
    ids = random_prompt("p", 20)
    req = it.request(ids, return_logprob=True, logprob_start_len=0, temperature=1.5, seed=3)
    it.append([req], it.extend((req, 20)))
    sampled = it.decode([req], 3)
    context = [*ids, *req.output_ids]
    check = it.request(context)
    logits = it.model.logits(it.batch((check, len(context))))
    for index, result in enumerate(sampled):
        (found,) = result.logprobs
        token = req.output_ids[index + 1]
        # Of the model, not of the distribution at that temperature.
        row = torch.log_softmax(logits, dim=-1)[20 + index]
        assert found.output == TokenLogprobs(token, pytest.approx(float(row[token]), abs=1e-6))
        assert found.prompt == ()


def test_equally_likely_tokens_come_in_order() -> None:
    from scripted_reference.models.readout import token_logprobs

    row = np.array([-2.0, -1.0, -3.0, -1.0], dtype=np.float32)
    assert token_logprobs(row, 2, top=3) == (2, -3.0, ((1, -1.0), (3, -1.0), (0, -2.0)))

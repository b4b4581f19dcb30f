from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_reference import expected_output
from scripted_reference.models.hash_weights import EOS_TOKEN_ID, HashWeights, splitmix64
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

Ids = Callable[[object, int], list[int]]


def test_splitmix64_is_the_published_generator() -> None:
    # The first outputs for seed 1234567, as in the reference implementation's test vectors.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix64(1234567, index) for index in range(3)] == expected


def test_multipliers_are_odd_and_depend_on_the_seed() -> None:
    one, two = HashWeights.from_seed(1), HashWeights.from_seed(2)
    assert one != two
    for name in ("growth", "chain_in", "slot_word", "slot_chain"):
        assert getattr(one, name) % 2 == 1


def test_the_closed_form_depends_on_prompt_and_seed(ids: Ids) -> None:
    prompt = ids("p", 20)
    output = expected_output(prompt, 12)
    assert len(output) == 12
    assert expected_output(prompt, 5) == output[:5]
    assert expected_output([*prompt, *output[:4]], 8) == output[4:]
    assert expected_output(prompt, 12, seed=1) != output
    assert expected_output(prompt[::-1], 12) != output
    assert max(expected_output(prompt, 12, 50)) < 50


def test_the_closed_form_stops_where_a_request_would(ids: Ids) -> None:
    prompt = ids("p", 20)
    output = expected_output(prompt, 12)
    stop = output[4]
    assert expected_output(prompt, 12, ignore_eos=False, stop_token_ids=[stop]) == output[:5]
    assert expected_output(prompt, 12, stop_token_ids=[stop]) == output
    tiny = expected_output(prompt, 400, 10, ignore_eos=False)
    assert tiny.index(EOS_TOKEN_ID) == len(tiny) - 1


def test_outputs_are_spread_over_the_vocabulary() -> None:
    tokens = [token for seed in range(40) for token in expected_output([seed], 50)]
    assert len(set(tokens)) > 1900
    assert 15_000 < sum(tokens) / len(tokens) < 17_000


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    seed=st.integers(0, 2**40),
    page_size=st.sampled_from([1, 4]),
    chunk=st.sampled_from([-1, 8, 64]),
)
def test_the_model_agrees_with_the_closed_form(
    engine: Any, lengths: list[int], seed: int, page_size: int, chunk: int
) -> None:
    e = engine(page_size=page_size, chunked_prefill_size=chunk, random_seed=seed)
    for i, length in enumerate(lengths):
        e.post(f"r{i}", length, max_new_tokens=3 + i)
    e.run()
    for i in range(len(lengths)):
        req = e.finished(f"r{i}")
        assert req.output_ids == expected_output(e.prompts[req.rid], 3 + i, seed=seed)


def test_a_prompt_of_one_repeated_token(engine: Any) -> None:
    e = engine(chunked_prefill_size=16)
    e.post("r", [1] * 100, max_new_tokens=20)
    e.run()
    e.expect_output("r")


CORRUPTIONS = ("zero", "token", "position", "chain", "copy", "swap", "row")


def corrupt(scheduler: Any, req: Any, how: str, rng: random.Random) -> None:
    """Damage one slot of the request's context, or one entry of its row, so that it is wrong."""
    slots = scheduler.token_to_kv_pool.slots
    row = scheduler.req_to_token_pool.req_to_token[req.req_pool_idx]
    position, other = rng.sample(range(req.kv_committed_len), 2)
    slot = row[position]
    if how == "row":
        row[position] = row[other]
    elif how == "swap":
        row[position], row[other] = row[other], row[position]
    elif how == "copy":
        slots[slot] = slots[row[other]]
    elif how == "zero":
        slots[slot] = (0, 0, 0)
    else:
        size = 64 if how == "chain" else 15
        slots[how][slot] ^= 1 + rng.randrange(2**size - 1)


def test_any_one_wrong_slot_changes_the_output(engine: Any, ids: Ids) -> None:
    changed: dict[str, list[bool]] = {how: [] for how in CORRUPTIONS}
    for trial in range(504):
        rng = random.Random(trial)
        how = CORRUPTIONS[trial % len(CORRUPTIONS)]
        e = engine(max_total_tokens=512, context_length=256, page_size=rng.choice([1, 16]))
        repeated = trial % 3 == 0
        length = rng.randrange(2, 200)
        prompt = [1] * length if repeated else ids(trial, length)
        e.post("r", prompt, max_new_tokens=20)
        for _ in range(rng.randrange(1, 5)):
            e.scheduler.iterate()
        req = e.req("r")
        done = len(req.output_ids)
        corrupt(e.scheduler, req, how, rng)
        e.scheduler.iterate()
        assert len(req.output_ids) == done + 1
        changed[how].append(req.output_ids != expected_output(prompt, done + 1))
    total = [hit for hits in changed.values() for hit in hits]
    assert len(total) >= 500
    assert sum(total) >= 0.99 * len(total), {how: sum(hits) for how, hits in changed.items()}
    for how, hits in changed.items():
        assert sum(hits) >= 0.97 * len(hits), how


def test_a_wrong_slot_of_a_shared_prefix_changes_the_output(engine: Any) -> None:
    e = engine()
    e.post("first", 60, max_new_tokens=2)
    e.run()
    shared = e.prompts["first"]
    slot = int(e.scheduler.tree_cache.match_prefix(shared[:50]).indices[17])
    e.scheduler.token_to_kv_pool.slots["token"][slot] += 1
    e.post("second", [*shared[:50], 5, 6, 7])
    e.run()
    assert e.computed("second") == [3]
    assert e.finished("second").output_ids != expected_output(e.prompts["second"], 8)


def test_what_lies_behind_a_context_is_not_read(engine: Any) -> None:
    e = engine()
    e.post("long", 200, max_new_tokens=30)
    e.post("short", 20, max_new_tokens=30)
    e.step(3)
    short = e.req("short")
    table = e.scheduler.req_to_token_pool.req_to_token
    table[short.req_pool_idx, short.kv_allocated_len + 1 :] = 8000
    e.scheduler.token_to_kv_pool.slots[8000] = (1, 2, 3)
    e.run()
    e.expect_output("long", "short")


@pytest.mark.parametrize("page_size", [1, 16])
def test_the_reserved_page_stays_zero(engine: Any, page_size: int) -> None:
    e = engine(page_size=page_size)
    for i in range(5):
        e.post(f"r{i}", 10 + 7 * i)
    e.run()
    assert not e.scheduler.token_to_kv_pool.words[:page_size].any()

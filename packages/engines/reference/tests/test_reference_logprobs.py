"""Log probabilities as the scheduler collects them, from a model that tells of what it computes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scripted_reference.memory import ReqToTokenPool, TokenToKVPool
from scripted_reference.messages import GenerateReq
from scripted_reference.models.base import BatchResult, ReqLogprobs, TokenLogprobs
from scripted_reference.models.hash_model import HashModel
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


def logprob_of(tokens: list[int], position: int, top: int = 0) -> TokenLogprobs:
    """What the model below says of a token after those before it."""
    if position == 0:
        return TokenLogprobs(tokens[0], None)
    value = -float(sum((i + 1) * token for i, token in enumerate(tokens[: position + 1])) % 997)
    return TokenLogprobs(
        tokens[position], value, tuple((token, value - token) for token in range(top))
    )


class TellingModel(HashModel):
    """The `hash` model with made-up probabilities of what the computed positions predict."""

    supports_logprobs = True
    lora_names = frozenset({"sql", "chat"})

    def forward(self, batch: ScheduleBatch) -> BatchResult:
        next_tokens = super().forward(batch).next_token_ids
        told: list[ReqLogprobs | None] = []
        for i, (req, token) in enumerate(zip(batch.reqs, next_tokens.tolist(), strict=True)):
            if not req.return_logprob:
                told.append(None)
                continue
            end = int(batch.seq_lens[i])
            prompt: list[TokenLogprobs] = []
            if batch.forward_mode.is_extend() and req.logprob_start_len >= 0:
                start = batch.prefix_lens[i]
                first = max(start + 1 if start else 0, req.logprob_start_len)
                prompt = [
                    logprob_of(req.origin_input_ids, position, req.top_logprobs_num)
                    for position in range(first, min(end + 1, len(req.origin_input_ids)))
                ]
            known = (req.origin_input_ids + req.output_ids)[:end]
            if len(known) < end:  # its newest token is in flight
                known.append(int(self._token_in(batch, i)))
            output = logprob_of([*known, token], end, req.top_logprobs_num)
            told.append(ReqLogprobs(output, tuple(prompt)))
        return BatchResult(next_tokens, tuple(told) if any(told) else None)

    def _token_in(self, batch: ScheduleBatch, index: int) -> int:
        return int(self._kv_pool.slots["token"][batch.out_cache_loc[index]])


@pytest.fixture(autouse=True)
def _telling(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(
        args: Any, *, kv_pool: TokenToKVPool, req_to_token_pool: ReqToTokenPool, window: None
    ) -> Any:
        return TellingModel(kv_pool=kv_pool, req_to_token_pool=req_to_token_pool)

    monkeypatch.setattr("scripted_reference.scheduler.load_model", load)


def check_logprobs(e: Any, rid: str, *, start: int, top: int = 0) -> None:
    """All positions that were asked for are there, each once, each with the right value."""
    e.expect_output(rid)
    req = e.finished(rid)
    tokens = req.origin_input_ids + req.output_ids
    prompt_len = len(req.origin_input_ids)
    first = prompt_len if start < 0 else start
    wanted = [logprob_of(tokens, position, top) for position in range(first, len(tokens))]
    assert req.input_logprobs == wanted[: prompt_len - first]
    assert req.output_logprobs == wanted[prompt_len - first :]


CONFIGS: list[dict[str, Any]] = [
    {"page_size": page_size, "disable_overlap_schedule": not overlap, "chunked_prefill_size": chunk}
    for page_size in (1, 16)
    for overlap in (False, True)
    for chunk in (16, -1)
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: "-".join(map(str, config.values())))
@pytest.mark.parametrize("start", [-1, 0, 1, 15, 16, 40, 69])
def test_no_position_is_lost_or_told_twice(engine: Any, config: dict[str, Any], start: int) -> None:
    """Chunks, a cached prefix, neighbours that ask for nothing, and two retractions on the way."""
    e = engine(**config)
    e.post("first", 70, max_new_tokens=5)
    e.run()  # the whole prompt is in the tree
    ask = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 2}
    e.ask("r", e.prompts["first"], max_new_tokens=8, **ask)
    e.post("silent", 30, max_new_tokens=8)
    e.step(2)
    for steps in (3, 4):
        e.pause("retract")
        e.resume()
        e.step(steps)
    e.run()
    check_logprobs(e, "r", start=start, top=2)
    assert e.finished("silent").output_logprobs == []


def test_a_prefix_hit_ends_before_what_predicts_the_asked_positions(engine: Any) -> None:
    e = engine()
    e.post("first", 70, max_new_tokens=2)
    e.run()
    for rid, start, computed in (("none", -1, 1), ("late", 50, 21), ("all", 0, 70)):
        e.ask(rid, e.prompts["first"], return_logprob=True, logprob_start_len=start)
        e.run()
        assert e.computed(rid) == [computed]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_retraction_for_memory_keeps_one_value_for_each_token(engine: Any, overlap: bool) -> None:
    e = engine(
        max_total_tokens=128,
        schedule_conservativeness=0.0,
        disable_overlap_schedule=not overlap,
    )
    for rid in ("a", "b"):
        e.ask(rid, 30, max_new_tokens=60, return_logprob=True, logprob_start_len=10)
    e.run()
    assert any(req.retraction_count for req in e.finishes)
    for rid in ("a", "b"):
        check_logprobs(e, rid, start=10)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"logprob_start_len": -2}, "logprob_start_len must be -1 or a position"),
        ({"logprob_start_len": 4}, "0 to 3, got 4"),
        ({"top_logprobs_num": -1}, "top_logprobs_num must be 0 to 32000"),
    ],
)
def test_what_cannot_be_told_is_refused(engine: Any, asked: dict[str, int], text: str) -> None:
    spec = GenerateReq(rid="r", input_ids=[5, 6, 7, 8], return_logprob=True, **asked)
    assert text in engine().scheduler.validate(spec)


def test_adapters_do_not_share_what_they_computed(engine: Any) -> None:
    e = engine(page_size=4, chunked_prefill_size=32)
    prompt_len = 41
    e.ask("plain", prompt_len, max_new_tokens=3)
    e.run()
    prompt = e.prompts["plain"]
    for adapter in ("sql", "chat"):
        for turn, computed in (("cold", [32, 9]), ("warm", [1])):
            rid = f"{adapter}-{turn}"
            e.ask(rid, prompt, max_new_tokens=3, lora_path=adapter)
            e.run()
            assert e.computed(rid) == computed, rid
            e.expect_output(rid)
    e.ask("plain again", prompt, max_new_tokens=3)
    e.ask("half", [*prompt[:21], 9, 9, 9], max_new_tokens=3, lora_path="sql")
    e.run()
    assert e.computed("plain again") == [1]
    assert e.computed("half") == [4], "a split path is still that of its adapter"
    # evicting a prefix drops it under every adapter
    e.scheduler.tree_cache.evict_prefix(prompt[:8])
    assert e.scheduler.tree_cache.evictable_size() == 0


def test_an_adapter_that_is_not_there_is_refused_with_those_that_are(engine: Any) -> None:
    spec = GenerateReq(rid="r", input_ids=[5], lora_path="sq")
    assert "'sq' is not loaded; there are 'chat', 'sql'." in engine().scheduler.validate(spec)
    monkeypatched = engine()
    monkeypatched.scheduler.limits = monkeypatched.scheduler.limits._replace(
        supports_logprobs=False, lora_names=frozenset()
    )
    assert "see lora_paths" in monkeypatched.scheduler.validate(spec)
    asking = GenerateReq(rid="r", input_ids=[5], return_logprob=True)
    assert "no probabilities" in monkeypatched.scheduler.validate(asking)


def test_the_made_up_values_differ() -> None:
    tokens = list(range(3, 40))
    values = [logprob_of(tokens, position).logprob for position in range(1, len(tokens))]
    assert len({value for value in values if value is not None}) > 30
    assert not any(math.isnan(value) for value in values if value is not None)

"""Speculation: the output is that of an engine without it, in fewer iterations."""

from __future__ import annotations

import random
from typing import Any

import pytest

pytest.importorskip("torch", reason="the models need torch")

from scripted_chunked import run_until_all_finished
from scripted_core.capabilities import Capability
from scripted_reference.engine import Engine
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.messages import ContinueReq, GenerateReq, PauseMode, PauseReq
from scripted_reference.observer import NoObserver
from scripted_reference.request import Req, SamplingParams
from scripted_reference.speculation.model import SpeculativeModel
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=15, stage="reference", runner_config="cpu")

_SPECULATION = {
    "speculative_algorithm": "EAGLE3",
    "speculative_draft_model_path": "tiny-draft",
    "speculative_num_steps": 3,
    "speculative_eagle_topk": 1,
    "speculative_num_draft_tokens": 4,
}
_NGRAM: dict[str, Any] = {
    "speculative_algorithm": "NGRAM",
    "speculative_draft_model_path": None,
    "speculative_num_draft_tokens": 4,
}


class _Outputs(NoObserver):
    """What came of each request, and that observers are told of one token at a time."""

    def __init__(self) -> None:
        self.ended: dict[str, Req] = {}
        self.told: dict[str, int] = {}

    def on_output(self, reqs: Any) -> None:
        for req in reqs:
            self.told[req.rid] = self.told.get(req.rid, 0) + 1
            assert len(req.output_ids) == self.told[req.rid]

    def on_finish(self, req: Req) -> None:
        self.ended[req.rid] = req


def _run(
    *,
    speculate: bool,
    sampling: dict[str, Any] | None = None,
    logprobs: bool = False,
    warm: bool = False,
    **kwargs: Any,
) -> tuple[dict[str, Any], int, Engine]:
    """Six requests: their outputs, ends and log probabilities, and how many iterations it took.

    ``warm`` leaves the beginnings of their prompts in the prefix tree before.
    """
    given = {"model_path": "tiny", "context_length": 512, "chunked_prefill_size": 64}
    given |= (_SPECULATION if speculate else {}) | kwargs
    engine = Engine(parse_engine_kwargs(given))
    outputs = _Outputs()
    engine.observer = outputs
    rng = random.Random(1)
    prompts = [[rng.randrange(355, 900) for _ in range(20 + 13 * i)] for i in range(6)]
    if warm:
        once = SamplingParams(max_new_tokens=1, ignore_eos=True)
        for i, prompt in enumerate(prompts):
            beginning = prompt[: len(prompt) * 2 // 3]
            engine.post(GenerateReq(rid=f"w{i}", input_ids=beginning, sampling_params=once))
        while not engine.is_fully_idle():
            engine.iterate()
        outputs.ended.clear()
    for i, prompt in enumerate(prompts):
        params = SamplingParams(
            max_new_tokens=20 + i,
            ignore_eos=i % 2 == 0,
            stop_token_ids=() if i % 2 == 0 else tuple(range(400, 480)),
            **(sampling or {"temperature": 0.0}),
        )
        engine.post(
            GenerateReq(
                rid=str(i), input_ids=prompt, sampling_params=params, return_logprob=logprobs
            )
        )
    iterations = 0
    while not engine.is_fully_idle():
        engine.iterate()
        iterations += 1
        assert iterations < 2000
        for scheduler in engine.schedulers:
            for req in scheduler.running_batch.reqs:
                if scheduler.enable_overlap and not (speculate and req.output_ids):
                    continue  # what is in flight counts as committed, a prompt in any case
                assert req.kv_committed_len == req.seq_len - 1
                ahead = req.kv_allocated_len - req.kv_committed_len
                # A batch in flight may have accepted all guesses, and the next one has as many.
                assert 0 <= ahead <= (8 if scheduler.enable_overlap else 0)
    engine.iterate()  # nothing runs: the engine looks for what has leaked
    found = {
        rid: (
            req.output_ids,
            req.finished_reason,
            [(one.token_id, one.logprob) for one in req.output_logprobs],
        )
        for rid, req in outputs.ended.items()
    }
    assert len(found) == 6
    return found, iterations, engine


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"page_size": 16, "max_total_tokens": 640},
        {"max_total_tokens": 260},
        {"sampling": {"temperature": 0.8, "seed": 3}},
        {"logprobs": True},
        {
            "disable_radix_cache": True,
            "speculative_num_steps": 1,
            "speculative_num_draft_tokens": 2,
        },
        {"dp_size": 2},
        {"disable_overlap_schedule": False},
        {"disable_overlap_schedule": False, "page_size": 16, "max_total_tokens": 640},
        {"disable_overlap_schedule": False, "max_total_tokens": 260, "logprobs": True},
        _NGRAM,
        {**_NGRAM, "disable_overlap_schedule": False, "logprobs": True},
        {"logprobs": True, "warm": True, "page_size": 16, "max_total_tokens": 1024},
        {"logprobs": True, "warm": True, "disable_overlap_schedule": False},
        {**_NGRAM, "logprobs": True, "warm": True},
    ],
)
def test_the_output_is_that_without_speculation(kwargs):
    """Token for token, and log probabilities bit for bit: nothing depends on what is in the batch."""
    own = {key: value for key, value in kwargs.items() if not key.startswith("speculative_")}
    own["warm"] = False  # what it is compared with computes all of each prompt
    plain, slow, _ = _run(speculate=False, **own)
    found, fast, engine = _run(speculate=True, **kwargs)
    assert found == plain
    # Random words are not what was said before: that looked up guesses are right is shown elsewhere.
    looked_up = kwargs.get("speculative_algorithm") == "NGRAM"
    assert fast <= slow if looked_up else fast < slow
    for scheduler in engine.schedulers:
        assert scheduler.accept_lengths is not None
        assert scheduler.accept_lengths.mean is not None
        assert scheduler.accept_lengths.mean <= 4
        assert looked_up or scheduler.accept_lengths.mean > 1


def test_guesses_that_are_never_right_cost_no_token():
    class Useless(SpeculativeModel):
        def guess(self, batch):
            fed = super().guess(batch)
            for tokens in fed:
                tokens[1:] = (tokens[1:] + 1) % self.vocab_size
            return fed

    plain, _, _ = _run(speculate=False)

    class Broken(Engine):
        def make_schedulers(self, args):
            schedulers = super().make_schedulers(args)
            for one in schedulers:
                assert isinstance(one.model, SpeculativeModel)
                one.model = Useless(target=one.model.target, draft=one.model.draft)
            return schedulers

    engine = Broken(
        parse_engine_kwargs({"model_path": "tiny", "context_length": 512, **_SPECULATION})
    )
    outputs = _Outputs()
    engine.observer = outputs
    rng = random.Random(1)
    prompt = [rng.randrange(355, 900) for _ in range(20)]
    params = SamplingParams(max_new_tokens=20, ignore_eos=True, temperature=0.0)
    engine.post(GenerateReq(rid="0", input_ids=prompt, sampling_params=params))
    while not engine.is_fully_idle():
        engine.iterate()
    assert outputs.ended["0"].output_ids == plain["0"][0]
    assert engine.scheduler.accept_lengths is not None
    assert engine.scheduler.accept_lengths.mean == 1.0


@pytest.mark.parametrize("mode", [PauseMode.RETRACT, PauseMode.IN_PLACE])
def test_a_pause_changes_no_token(mode):
    plain, _, _ = _run(speculate=False)
    kwargs = {"model_path": "tiny", "context_length": 512, **_SPECULATION}
    engine = Engine(parse_engine_kwargs(kwargs))
    outputs = _Outputs()
    engine.observer = outputs
    rng = random.Random(1)
    prompt = [rng.randrange(355, 900) for _ in range(20)]
    params = SamplingParams(max_new_tokens=20, ignore_eos=True, temperature=0.0)
    engine.post(GenerateReq(rid="0", input_ids=prompt, sampling_params=params))
    for _ in range(3):
        engine.iterate()
    engine.post(PauseReq(mode))
    for _ in range(3):
        engine.iterate()
    engine.post(ContinueReq())
    while not engine.is_fully_idle():
        engine.iterate()
    assert outputs.ended["0"].output_ids == plain["0"][0]


@pytest.mark.scripted(model_path="tiny", context_length=512, max_total_tokens=512, **_SPECULATION)
@pytest.mark.scripted_requires("spec_decode")
def test_a_script_sees_more_than_one_token_an_iteration(t):
    """The runtime looks at who owns each page after every iteration."""
    rng = random.Random(1)  # words, which the draft model knows, as it does not know bytes
    handles = [
        t.start_req(
            input_ids=[rng.randrange(355, 900) for _ in range(40)],
            max_new_tokens=24,
            ignore_eos=True,
        )
        for _ in range(4)
    ]
    yield
    for _ in range(6):
        yield
    assert max(len(h.output_ids) for h in handles) > 7
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [len(h.output_ids) for h in handles] == [24] * 4


def test_the_capability_is_told():
    assert Capability.SPEC_DECODE.value == "spec_decode"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"speculative_algorithm": "MEDUSA"}, "no algorithm"),
        ({"speculative_algorithm": "NGRAM"}, "of no use with speculative_algorithm='NGRAM'"),
        ({"speculative_draft_model_path": None}, "needs a draft model"),
        ({"model_path": "hash"}, "no draft model guesses"),
        ({"speculative_num_steps": 17, "speculative_num_draft_tokens": 18}, "no number of guesses"),
        ({"speculative_eagle_topk": 4}, "no tree"),
        ({"speculative_num_draft_tokens": 9}, "does not fit"),
        ({"pp_size": 2}, "speculative_algorithm='EAGLE3' and pp_size=2 do not go together"),
        ({"disaggregation_mode": "pair"}, "disaggregation_mode=pair do not go together"),
    ],
)
def test_what_cannot_be_is_refused(changed, said):
    with pytest.raises(ConfigError, match=said) as caught:
        parse_engine_kwargs({"model_path": "tiny", **_SPECULATION, **changed})
    assert caught.value.hint is not None


def test_a_draft_model_of_another_tokenizer_is_refused():
    class Other:
        vocab_size = 7

    class Target:
        vocab_size = 915

    with pytest.raises(ConfigError, match="7 tokens and the model 915"):
        SpeculativeModel(target=Target(), draft=Other())  # type: ignore[arg-type]

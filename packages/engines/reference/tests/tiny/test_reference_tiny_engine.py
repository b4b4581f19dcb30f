"""The transformer in the engine: what the scheduler does to a request leaves no trace in its output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.messages import GenerateReq, PauseMode
from scripted_reference.request import Req, SamplingParams
from scripted_reference.scheduler import Scheduler
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError

register_cpu_ci(est_time=3, stage="reference", runner_config="cpu")

pytest.importorskip("torch", reason="torch is not installed; the tiny model needs it")

Prompt = Callable[[object, int], list[int]]


def _scheduler(folder: Path, **kwargs: Any) -> Scheduler:
    settings = {"model_path": str(folder), "load_format": "dummy", "context_length": 512}
    return Scheduler(parse_engine_kwargs({**settings, **kwargs}))


def _post(scheduler: Scheduler, rid: str, ids: list[int], **wishes: Any) -> None:
    params = {"max_new_tokens": 12, "ignore_eos": True, **wishes.pop("sampling", {})}
    spec = GenerateReq(rid=rid, input_ids=ids, sampling_params=SamplingParams(**params), **wishes)
    assert scheduler.validate(spec) is None
    scheduler.inbox.append(spec)


def _run(scheduler: Scheduler, rids: list[str], *, disturb: bool = False) -> dict[str, Req]:
    reqs: dict[str, Req] = {}
    for step in range(400):
        scheduler.iterate()
        reqs.update({rid: req for rid in rids if (req := scheduler.find_req(rid))})
        if disturb and step in (3, 9, 14):
            scheduler.pause(PauseMode.RETRACT)
            scheduler.resume()
        if scheduler.is_fully_idle():
            return reqs
    raise AssertionError(f"not idle: {scheduler.requests}")


WISHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "hot": {"sampling": {"temperature": 1.2, "seed": 4}},
    "told": {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2},
}


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("overlap", [False, True])
def test_chunks_retraction_and_company_leave_no_trace(
    page_size: int,
    overlap: bool,
    config_folder: Callable[..., Path],
    random_prompt: Prompt,
    device: str,
) -> None:
    folder = config_folder()
    prompts = {rid: random_prompt(rid, 60 + 20 * n) for n, rid in enumerate(WISHES)}
    undisturbed: dict[str, Req] = {}
    for rid, ids in prompts.items():
        scheduler = _scheduler(folder, device=device)
        _post(scheduler, rid, ids, **WISHES[rid])
        undisturbed.update(_run(scheduler, [rid]))
    scheduler = _scheduler(
        folder,
        device=device,
        page_size=page_size,
        chunked_prefill_size=16,
        disable_overlap_schedule=not overlap,
        max_total_tokens=320,
    )
    for rid, ids in prompts.items():
        _post(scheduler, rid, ids, **WISHES[rid])
    found = _run(scheduler, list(prompts), disturb=True)
    assert sum(req.retraction_count for req in found.values()) > 0
    for rid, req in found.items():
        assert req.output_ids == undisturbed[rid].output_ids
        assert len(req.output_ids) == 12
        assert req.output_logprobs == undisturbed[rid].output_logprobs
        assert req.input_logprobs == undisturbed[rid].input_logprobs
    assert len(set(found["greedy"].output_ids)) > 3, "a repeated token would hide a lost one"
    assert [entry.token_id for entry in found["told"].input_logprobs] == prompts["told"]
    assert len(found["told"].output_logprobs) == 12


def test_a_corrupted_slot_is_seen(
    config_folder: Callable[..., Path], random_prompt: Prompt
) -> None:
    scheduler = _scheduler(config_folder())
    _post(scheduler, "r", random_prompt("r", 40), return_logprob=True)
    scheduler.iterate()
    req = scheduler.find_req("r")
    assert req is not None
    assert req.req_pool_idx is not None
    slots = scheduler.req_to_token_pool.req_to_token[req.req_pool_idx, :40].tolist()
    kv = scheduler.model.kv  # type: ignore[attr-defined]
    kv.write(slots[7], kv.read(slots[30]))
    corrupted = _run(scheduler, [])
    clean = _scheduler(config_folder())
    _post(clean, "r", random_prompt("r", 40), return_logprob=True)
    undisturbed = _run(clean, ["r"])["r"]
    assert corrupted == {}
    assert req.output_logprobs[0] == undisturbed.output_logprobs[0]
    assert req.output_logprobs[1:] != undisturbed.output_logprobs[1:]


def test_models_that_cannot_be_loaded(tmp_path: Path, config_folder: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        _scheduler(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="has no weights"):
        _scheduler(config_folder(), load_format="auto")
    assert _scheduler(config_folder()).model.vocab_size == 301

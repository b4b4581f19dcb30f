"""Whatever is done to a request of a pair, at every point of its life: no token is lost or repeated."""

from __future__ import annotations

import pytest
from scripted_backend_pd import (
    STAGES,
    Prompt,
    advance_to_pd_stage,
    outputs_of_one_engine,
    pair_kwargs,
)
from scripted_chunked import run_until_all_finished, run_until_finished
from scripted_core import InProcessSession
from scripted_core.errors import ConfigError
from scripted_core.views import PdStage
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=9, stage="pd", runner_config="cpu")

pytestmark = pytest.mark.scripted_requires("pd_prefill", "pd_decode")

_CONFIGURATIONS = {
    "page1": pair_kwargs(),
    "page16": pair_kwargs(page_size=16),
    "overlap": pair_kwargs(page_size=4, disable_overlap_schedule=False),
}
_each_configuration = pytest.mark.parametrize(
    "label",
    [
        pytest.param(label, marks=pytest.mark.scripted(**kwargs))
        for label, kwargs in _CONFIGURATIONS.items()
    ],
)
_each_stage = pytest.mark.parametrize("stage", STAGES, ids=[stage.value for stage in STAGES])
_PROMPTS = (Prompt(200, seed=1), Prompt(90, seed=2), Prompt(20, seed=3), Prompt(130, seed=4))


@pytest.fixture(scope="module")
def expected():
    """What one engine answers that does both, with nothing in the way."""
    return outputs_of_one_engine(_PROMPTS, _CONFIGURATIONS["page1"])


def _outputs(handles):
    return [handle.output_ids for handle in handles]


@_each_configuration
def test_a_request_goes_through_its_stages_in_order(t, label):
    r = _PROMPTS[0].start(t)
    seen = [t.transfer.stage(r)]
    while not r.finished:
        yield
        if t.transfer.stage(r) is not seen[-1]:
            seen.append(t.transfer.stage(r))
    # Nothing holds the transfer up, so that a prompt that is complete has arrived at once.
    assert [stage for stage in seen if stage is not PdStage.TRANSFERRING] == [
        PdStage.GONE,
        PdStage.QUEUED,
        PdStage.PREFILLING,
        PdStage.TRANSFERRED,
        PdStage.DECODING,
        PdStage.GONE,
    ]


@_each_configuration
@_each_stage
def test_an_abort_ends_it_and_nobody_else(t, label, stage, expected):
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from advance_to_pd_stage(t, handles[0], stage)
    before = len(handles[0].output_ids)
    t.abort(handles[0])
    yield
    assert handles[0].status == "aborted"
    assert handles[0].output_ids == expected[0][: len(handles[0].output_ids)]
    assert len(handles[0].output_ids) <= before + 1
    t.transfer.resume()
    yield from run_until_all_finished(handles[1:])
    assert _outputs(handles[1:]) == expected[1:]
    assert t.transfer.stage(handles[0]) is PdStage.GONE


@_each_configuration
@_each_stage
@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_pause_of_both_engines_delays_and_changes_nothing(t, label, stage, mode, expected):
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from advance_to_pd_stage(t, handles[0], stage)
    t.pause_generation(mode=mode)
    yield
    outputs = _outputs(handles)
    batches = len(t.batch_log)
    for _ in range(5):
        yield
    assert _outputs(handles) == outputs
    assert len(t.batch_log) == batches
    if mode == "retract" and stage is PdStage.DECODING:
        assert t.transfer.stage(handles[0]) is PdStage.RETRACTED
        assert t.decode.view(handles[0]).kv_pages == 0
    t.continue_generation()
    t.transfer.resume()
    yield from run_until_all_finished(handles)
    assert _outputs(handles) == expected


@_each_configuration
@_each_stage
@pytest.mark.parametrize("mode", ["retract", "in_place"])
@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_a_pause_of_one_engine_lets_the_other_go_on(t, label, stage, mode, side, expected):
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from advance_to_pd_stage(t, handles[0], stage)
    paused = getattr(t, side)
    paused.pause_generation(mode=mode)
    yield
    assert paused.is_paused
    for _ in range(20):
        yield
    if side == "decode":
        assert not any(handle.finished for handle in handles)
    paused.continue_generation()
    t.transfer.resume()
    yield from run_until_all_finished(handles)
    assert _outputs(handles) == expected


@_each_configuration
@_each_stage
def test_an_abort_while_paused_in_place_ends_it_at_continue(t, label, stage, expected):
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from advance_to_pd_stage(t, handles[0], stage)
    t.pause_generation(mode="in_place")
    yield
    t.abort(handles[0])
    for _ in range(3):
        yield
    assert not handles[0].finished
    t.continue_generation()
    yield
    assert handles[0].status == "aborted"
    t.transfer.resume()
    yield from run_until_all_finished(handles[1:])
    assert _outputs(handles[1:]) == expected[1:]


@_each_configuration
@_each_stage
@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_an_abort_in_one_engine_ends_it_in_the_other(t, label, stage, side, expected):
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from advance_to_pd_stage(t, handles[0], stage)
    getattr(t, side).abort(handles[0])
    yield
    if side == "decode" or stage in (PdStage.QUEUED, PdStage.PREFILLING, PdStage.TRANSFERRING):
        assert handles[0].status == "aborted"
    t.transfer.resume()
    yield from run_until_all_finished(handles)
    if side == "prefill" and stage is PdStage.DECODING:
        assert handles[0].output_ids == expected[0], "the prefill engine is done with it"
    assert _outputs(handles[1:]) == expected[1:]


@_each_configuration
@_each_stage
def test_abort_all_leaves_nothing_behind(t, label, stage):
    handles = [prompt.start(t) for prompt in _PROMPTS]
    yield from advance_to_pd_stage(t, handles[0], stage)
    t.abort_all()
    t.transfer.resume()
    yield
    assert all(handle.finished for handle in handles)
    while not t.is_fully_idle:
        yield
    assert not any(t.get_all_node_lock_refs().values())
    receipt = t.flush_cache()
    yield
    assert receipt.ok
    stats = t.engine_stats()
    for pool in ("full", "full@prefill"):
        assert stats[f"kv_pool_{pool}_free"] == stats[f"kv_pool_{pool}_total"]


@pytest.mark.scripted(**_CONFIGURATIONS["page1"])
def test_the_first_token_can_be_the_last(t, expected):
    r = t.start_req(
        input_ids=_PROMPTS[0].input_ids(t.engine.vocab_size), max_new_tokens=1, ignore_eos=True
    )
    yield from run_until_finished(r)
    assert r.output_ids == expected[0][:1]
    stop = t.start_req(
        input_ids=_PROMPTS[0].input_ids(t.engine.vocab_size),
        max_new_tokens=8,
        stop_token_ids=expected[0][:1],
    )
    yield from run_until_finished(stop)
    assert stop.output_ids == expected[0][:1]
    assert stop.finish_reason.kind == "stop"


@pytest.mark.scripted(**pair_kwargs(disable_overlap_schedule=True))
def test_the_decode_engine_never_prefills_and_the_prefill_engine_never_decodes(t):
    r = _PROMPTS[0].start(t)
    yield from run_until_finished(r)
    extends = [record for record in t.batch_log if record.extend_rids]
    assert len(extends) == r.chunks_done == 4
    assert all(record.step <= 5 for record in extends)
    assert len(t.batch_log) - len(extends) == len(r.output_ids) - 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"disaggregation_mode": "prefill"}, "disaggregation_mode='prefill' is one of two servers"),
        ({"decode_kwargs": {"max_totl_tokens": 1}}, "did you mean 'max_total_tokens'"),
        ({"prefill_kwargs": {"chunked_prefill_size": 0}}, "chunked_prefill_size=0"),
        ({"decode_kwargs": 3}, "is no mapping"),
        ({"dp_size": 2}, "dp_size=2 is refused"),
        (
            {"model_path": "scripted/small-swa"},
            "disaggregation_mode=pair and model_path='hash' with sliding windows",
        ),
        ({"pp_size": 2}, "pp_size=2 and disaggregation_mode=pair do not go together"),
    ],
)
def test_arguments_that_a_pair_cannot_have_are_refused(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        InProcessSession.start(backend="reference", **pair_kwargs(**kwargs))

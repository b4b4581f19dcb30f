"""A pair of servers and a router under scripts: outputs, stages, pauses and memory."""

from __future__ import annotations

import pytest
from scripted_backend_pd import Prompt, outputs_of_one_engine, pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_core import ScriptedHttpServer
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=20, stage="pd", runner_config="cpu")

_KWARGS = pair_kwargs()
_SMALL = pair_kwargs(
    num_reserved_decode_tokens=4,
    decode_kwargs={"max_total_tokens": 400},
    prefill_kwargs={"max_total_tokens": 300},
)


def _expected(*prompts):
    return outputs_of_one_engine(prompts, _KWARGS)


@pytest.fixture(scope="module")
def crowd():
    """What one engine answers that does both."""
    return _expected(*scripts.CROWD)


@pytest.fixture(scope="module")
def pair():
    """One pair for the module."""
    with ScriptedHttpServer.start(backend="reference", **_KWARGS) as server:
        yield server


def test_outputs_equal_those_of_one_engine_and_scripts_are_reproducible(pair, crowd):
    pair.execute_script(scripts.crowd_answers, args=(crowd,))
    digest = pair.event_digest()
    pair.execute_script(scripts.crowd_answers, args=(crowd,))
    assert pair.event_digest() == digest
    assert {"pd_prefill", "pd_decode", "http"} <= pair.capabilities


def test_a_yield_is_an_iteration_of_the_prefill_engine_and_one_of_the_decode_engine(pair):
    pair.execute_script(scripts.each_yield_is_one_of_each)


def test_a_prefix_hit_saves_the_prefill_and_not_the_transfer(pair):
    expected = _expected(*(Prompt(40, seed=i, shared=128) for i in (21, 22)))
    pair.execute_script(scripts.a_prefix_hit_saves_the_prefill, args=(expected,))


@pytest.mark.parametrize(
    "stage", ["queued", "prefilling", "transferring", "transferred", "decoding"]
)
def test_an_abort_reaches_both_engines_at_every_stage(pair, crowd, stage):
    pair.execute_script(scripts.aborted_at, args=(stage, crowd))


@pytest.mark.parametrize("side", ["prefill", "decode"])
def test_an_abort_in_one_engine_ends_the_request_in_the_other(pair, side):
    pair.execute_script(scripts.aborted_in_one_engine, args=(side,))


@pytest.mark.parametrize(
    ("side", "mode"), [("decode", "retract"), ("decode", "in_place"), ("prefill", "in_place")]
)
def test_either_engine_is_paused_by_itself(pair, crowd, side, mode):
    pair.execute_script(scripts.paused_and_retracted, args=(side, mode, crowd))


def test_a_prompt_that_the_prefill_engine_loses_is_sent_again(pair):
    expected = _expected(Prompt(256, seed=9))
    pair.execute_script(scripts.prefill_loses_a_prompt_part_way, args=(expected,))


def test_chunks_between_processes_are_held_stepped_reordered_and_lost(pair):
    expected = _expected(Prompt(256, seed=9))
    pair.execute_script(scripts.chunks_are_stepped_and_reordered, args=(expected,))
    pair.execute_script(scripts.a_lost_chunk_fails_its_request)


def test_pages_of_either_engine_can_be_exhausted(pair, crowd):
    pair.execute_script(scripts.pages_are_exhausted_on_either_side, args=(crowd,))


def _over_http(t):
    t.abort_all()
    t.pause_generation(mode="retract", via="http")
    yield


def test_control_over_http_is_no_capability_of_a_pair(pair):
    with pytest.raises(pytest.skip.Exception, match="via='http' for pause"):
        pair.execute_script(_over_http)


def test_a_small_decode_engine_retracts_and_a_long_prompt_is_refused(crowd):
    with ScriptedHttpServer.start(backend="reference", **_SMALL) as server:
        server.execute_script(scripts.decode_pages_run_out, args=(crowd,))
        server.execute_script(scripts.oversize_prompts_are_refused, args=(crowd,))

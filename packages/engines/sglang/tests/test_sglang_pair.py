"""Real prefill/decode disaggregation under scripts: two SGLang servers, KV over TCP, and a router."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_backend_pd import Prompt, outputs_of_one_engine, pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_backend_pd.pair_client import PdPair
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_core import ScriptedHttpServer
from scripted_core.errors import EngineDied
from scripted_core.sessions.processes import still_running
from scripted_core.views import PdStage
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch
from scripted_sglang.pair_transport import why_no_transfer

register_cpu_ci(est_time=120, stage="single-sglang", runner_config="cpu")

_KWARGS = pair_kwargs(model_path="tiny")
_SMALL = pair_kwargs(
    model_path="tiny", num_reserved_decode_tokens=2, decode_kwargs={"max_total_tokens": 400}
)


def _missing():
    why = launch.check_usable()
    if why is not None:
        return f"needs the capability 'an installed SGLang': {why}"
    missing = why_no_transfer()
    return None if missing is None else f"needs the capability 'pd_decode': {missing}"


pytestmark = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))


def _expected(*prompts):
    return outputs_of_one_engine(prompts, _KWARGS)


@pytest.fixture(scope="module")
def crowd():
    """What the reference engine answers to the same, as one SGLang server does too."""
    return _expected(*scripts.CROWD)


@pytest.fixture(scope="module")
def pair():
    with ScriptedHttpServer.start(backend="sglang", **_KWARGS) as server:
        yield server


@pytest.fixture(scope="module")
def small_pair():
    with ScriptedHttpServer.start(backend="sglang", **_SMALL) as server:
        yield server


# -- outputs and iterations ----------------------------------------------------------------------


def test_outputs_equal_those_of_one_engine_and_scripts_are_reproducible(pair, crowd):
    pair.execute_script(scripts.crowd_answers, args=(crowd,))
    digest = pair.event_digest()
    pair.execute_script(scripts.crowd_answers, args=(crowd,))
    assert pair.event_digest() == digest
    assert {"pd_prefill", "pd_decode"} <= pair.capabilities


def _prefix_is_hit(t, expected):
    prompts = [Prompt(40, seed=i, shared=128) for i in (21, 22)]
    handles = []
    for prompt in prompts:
        handles.append(prompt.start(t))
        yield from run_until_finished(handles[-1])
    assert [handle.chunks_done for handle in handles] == [3, 0]
    assert [handle.output_ids for handle in handles] == expected
    yield
    t.prefill.flush_cache()
    yield
    yield
    assert t.prefill.engine_stats()["kv_pool_evictable"] == 0


def test_a_prefix_hit_in_the_prefill_server_saves_chunks_and_changes_no_output(pair):
    expected = _expected(*(Prompt(40, seed=i, shared=128) for i in (21, 22)))
    pair.execute_script(_prefix_is_hit, args=(expected,))


def test_short_requests_go_through_the_router(pair):
    found = PdPair.of(pair).send_parallel_short_requests(4, max_new_tokens=8, distinct_prompts=True)
    assert [len(result["output_ids"]) for result in found] == [8] * 4
    # Answers to different prompts may be the same; no request is answered for another.
    assert len({result["meta_info"]["id"] for result in found}) == 4


# -- interference --------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["queued", "prefilling", "transferring", "decoding"])
def test_an_abort_reaches_both_servers_at_every_stage(pair, crowd, stage):
    pair.execute_script(scripts.aborted_at, args=(stage, crowd))


def _paused_in_place(t, expected):
    handles = [prompt.start(t) for prompt in scripts.CROWD]
    yield from advance_to_decode_step(handles[1], 4)
    t.decode.pause_generation(mode="in_place")
    yield
    assert t.decode.is_paused
    assert not t.prefill.is_paused
    before = [len(handle.output_ids) for handle in handles]
    for _ in range(6):
        yield
    assert [len(handle.output_ids) for handle in handles] == before
    t.decode.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


def test_the_decode_server_is_paused_in_place_by_itself(pair, crowd):
    pair.execute_script(_paused_in_place, args=(crowd,))


def _arrives_during_a_pause(t, expected):
    r = scripts.CROWD[0].start(t)
    t.transfer.hold()
    for _ in range(8):
        yield
    assert t.transfer.stage(r) is PdStage.TRANSFERRING
    t.decode.pause_generation(mode="in_place")
    yield
    t.transfer.resume()
    yield
    assert t.transfer.stage(r) is PdStage.TRANSFERRED
    t.decode.continue_generation()
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]


def test_kv_that_arrives_during_a_pause_waits(pair, crowd):
    pair.execute_script(_arrives_during_a_pause, args=(crowd,))


def _recomputed(t, expected):
    handles = [prompt.start(t) for prompt in scripts.CROWD[:3]]
    yield from advance_to_decode_step(handles[1], 4)
    t.decode.pause_generation(mode="retract")
    yield
    assert t.transfer.stage(handles[1]) is PdStage.RETRACTED
    assert all(handle.kv_pages == 0 for handle in handles)
    assert not t.is_fully_idle
    t.decode.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected[:3]


def test_retracted_requests_are_computed_once_more(pair, crowd):
    pair.execute_script(_recomputed, args=(crowd,))


def _aborted_during_a_retraction(t, expected):
    handles = [prompt.start(t) for prompt in scripts.CROWD[:2]]
    yield from advance_to_decode_step(handles[1], 4)
    t.decode.pause_generation(mode="retract")
    yield
    t.abort(handles[0])
    yield
    assert handles[0].status == "aborted"
    t.decode.continue_generation()
    yield from run_until_finished(handles[1])
    assert handles[1].output_ids == expected[1]


def test_an_abort_reaches_what_a_pause_has_retracted(pair, crowd):
    """See docs/findings/sglang-pd-abort-during-a-retraction.md: SGLang's own does not."""
    pair.execute_script(_aborted_during_a_retraction, args=(crowd,))


def _waits_for_decode_pages(t, expected):
    t.decode.exhaust_kv(leave_pages=20)
    yield
    r = scripts.CROWD[0].start(t)
    for _ in range(20):
        yield
    assert t.transfer.stage(r) is PdStage.QUEUED
    assert not t.batch_log
    t.release_exhausted()
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]


def test_a_request_waits_for_pages_of_the_decode_server(pair, crowd):
    pair.execute_script(_waits_for_decode_pages, args=(crowd,))


def test_single_chunks_cannot_be_interfered_with(pair):
    with pytest.raises(pytest.skip.Exception, match="hold"):
        pair.execute_script(_drops)


def _drops(t):
    t.transfer.step()
    yield


# -- memory pressure -----------------------------------------------------------------------------


def test_a_small_decode_server_retracts(small_pair, crowd):
    small_pair.execute_script(scripts.decode_pages_run_out, args=(crowd,))


# -- what SGLang does without the adapter's amends -----------------------------------------------


def test_a_pair_answers_without_an_accelerator():
    """See docs/findings/sglang-pd-on-a-cpu.md: red on a release that has it mended.

    A server that ends at its first request has no session to mark, so the failure is spelled out.
    """
    torch = pytest.importorskip("torch")
    if torch.accelerator.is_available():
        pytest.skip("pinned memory is there: this machine has an accelerator")
    kwargs = {**_KWARGS, "env": {"SCRIPTED_SGLANG_AS_SHIPPED": "1"}}
    with (
        ScriptedHttpServer.start(backend="sglang", **kwargs) as server,
        pytest.raises(EngineDied, match=r"prefill scheduler[\s\S]*pin_memory=True"),
    ):
        server.execute_script(scripts.spins)


# -- death ---------------------------------------------------------------------------------------


def _dies(server, whom):
    pids = server.pids
    said, after_s = scripts.death_of(server, whom)
    assert whom in said
    assert after_s < 1.0
    folder = Path(server.log_path).parent
    server.shutdown()
    assert not folder.exists()
    assert still_running(pids) == {}


# The last tests of each pair, so that no death costs a start of its own.
def test_the_death_of_the_prefill_scheduler_is_named_at_once(pair):
    _dies(pair, "prefill scheduler")


def test_the_death_of_the_router_is_named_at_once():
    with ScriptedHttpServer.start(backend="sglang", **_KWARGS) as server:
        _dies(server, "router")


def test_the_death_of_the_decode_scheduler_is_named_at_once(small_pair):
    _dies(small_pair, "decode scheduler")

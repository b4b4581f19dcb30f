"""What should hold and does not, because SGLang is wrong; `docs/findings/` has a page on each.

Those that end the server come last, so that they cost few starts.
"""

from __future__ import annotations

import contextlib
import json
import urllib.request

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    lora_device_kwargs,
    run_steps,
    settle,
    single_device_kwargs,
)
from scripted_chunked import advance_to_decode_step, advance_to_nth_chunk, run_until_finished
from scripted_core.errors import EngineDied, EngineStartError
from scripted_core.sessions.base import make_config, start_session
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=90, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
]
_on_sglang = pytest.mark.parametrize("scripted_backend", ["sglang"], indirect=True)

# Here the adapter makes up for nothing.
_as_shipped = pytest.mark.scripted(**single_device_kwargs(env={"SCRIPTED_SGLANG_AS_SHIPPED": "1"}))
_default = pytest.mark.scripted(**single_device_kwargs())


def _found(page, *, match, releases=""):
    return pytest.mark.scripted_known_defect(
        engine="sglang", releases=releases, finding=f"docs/findings/{page}.md", match=match
    )


@_on_sglang
@_as_shipped
@_found(
    "sglang-batch-is-full-never-cleared",
    releases="<0.5.21",
    match="no batch ran for 64 iterations",
)
def test_memory_that_comes_back_is_noticed_although_nothing_runs(t):
    t.exhaust_kv(leave_pages=32)
    yield
    r = t.start_req(prompt_len=100, seed=1, max_new_tokens=2, ignore_eos=True)
    yield from run_steps(5)
    assert r.status == "waiting"
    t.release_exhausted()
    yield from run_until_finished(r, max_steps=100)


@_on_sglang
@_as_shipped
@_found(
    "sglang-unasked-answer-ends-the-front", releases="<0.5.16", match="has no attribute 'append'"
)
def test_an_answer_that_nobody_waits_for_does_no_harm(t):
    r = t.start_req(prompt_len=20, seed=1, max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(r)
    yield from settle(t)
    receipt = t.flush_cache()
    yield
    assert receipt.ok
    yield from run_steps(300)
    other = t.start_req(prompt_len=20, seed=2, max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(other)
    assert other.status == "finished"


@_on_sglang
@_default
@_found("sglang-abort-by-prefix", match="'aborted'.* == 'finished'")
def test_an_abort_of_one_rid_leaves_a_longer_one_alone(t):
    from sglang.srt.managers.io_struct import AbortReq

    r = t.start_req(prompt_len=20, rid="victim", max_new_tokens=12, ignore_eos=True)
    yield from advance_to_decode_step(r, 2)
    # Past the adapter, which lets no abort of another rid through.
    t.tokenizer_recv_proxy.inject(AbortReq(rid="vic"))
    yield from run_until_finished(r)
    assert r.status == "finished"


@_on_sglang
@_default
@_found("sglang-mid-chunk-out-of-memory", match="Out of memory|out of memory|OOM")
def test_a_chunk_that_finds_no_room_waits(t):
    r = t.start_req(prompt_len=6 * CHUNK_TOKENS, seed=1, max_new_tokens=2, ignore_eos=True)
    yield from advance_to_nth_chunk(r, 2)
    t.exhaust_kv(leave_pages=CHUNK_TOKENS // 2)
    yield from run_steps(10)
    assert not r.finished
    t.release_exhausted()
    yield from run_until_finished(r)


def _a_script(t):
    r = t.start_req(prompt_len=20, seed=1, max_new_tokens=2, ignore_eos=True)
    yield from run_until_finished(r)


@_on_sglang
@_default
@pytest.mark.parametrize(
    "wishes",
    [
        pytest.param(
            {"top_logprobs_num": 100_000},
            marks=_found("sglang-logprob-arguments-end-the-scheduler", match="out of range"),
            id="top_logprobs_num",
        ),
        pytest.param(
            {"logprob_start_len": -5},
            marks=_found("sglang-logprob-arguments-end-the-scheduler", match="AssertionError"),
            id="logprob_start_len",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(scripted_session, wishes):
    scripted_session.execute_script(_a_script)
    body = {
        "input_ids": list(range(4, 24)),
        "sampling_params": {"max_new_tokens": 2, "temperature": 0.0},
        "return_logprob": True,
        **wishes,
    }
    request = urllib.request.Request(
        f"{scripted_session.base_url}/generate",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    # Refused is fine; so is a connection that breaks, if the server is still there.
    with contextlib.suppress(OSError):
        urllib.request.urlopen(request, timeout=20).read()
    try:
        scripted_session.execute_script(_a_script)
    except EngineDied as error:
        raise AssertionError(f"the request ended the scheduler: {error}") from error


def test_lora_starts_without_an_accelerator():
    """See docs/findings/sglang-lora-needs-pinned-memory.md: red on a release that has it mended.

    A server that does not start has no session to mark, so the failure is spelled out.
    """
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("scripted_models")
    if torch.accelerator.is_available():
        pytest.skip("pinned memory is there: this machine has an accelerator")
    kwargs = lora_device_kwargs(
        engine="sglang",
        model=models.checkpoint("tiny"),
        env={"SCRIPTED_SGLANG_AS_SHIPPED": "1"},
    )
    with pytest.raises(EngineStartError, match="pin_memory=True"):
        start_session(make_config("sglang", kwargs)).shutdown()

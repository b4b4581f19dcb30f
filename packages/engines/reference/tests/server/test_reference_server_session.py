"""Scripts in the reference engine's scheduler process: the same as in-process, by way of HTTP."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request

import pytest
from scripted_core.errors import ScriptFailed
from scripted_core.sessions.base import make_config, start_session
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_reference import expected_output
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="reference", runner_config="cpu")

_KWARGS = {"chunked_prefill_size": 64, "max_total_tokens": 2048}
_MAX_STEPS = 200


@pytest.fixture(scope="module")
def session():
    with ScriptedHttpServer.start(**_KWARGS) as started:
        yield started


def _until(condition):
    for _ in range(_MAX_STEPS):
        if condition():
            return
        yield
    raise AssertionError("it did not come about")


def _post(url, body):
    request = urllib.request.Request(url, data=json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.status, response.read()


# -- the same events


def _script_of_many_turns(t):
    prompts = {"long": 200, "short": 40, "late": 90}
    long = t.start_req(prompt_len=prompts["long"], seed=1, max_new_tokens=9, rid="long")
    short = t.start_req(
        prompt_len=prompts["short"], seed=2, max_new_tokens=6, rid="short", ignore_eos=True
    )
    refused = t.start_req(prompt_len=3000, rid="refused")
    assert refused.status == "aborted"
    yield
    t.pause_generation(mode="retract")
    late = t.start_req(prompt_len=prompts["late"], seed=3, max_new_tokens=5, rid="late")
    yield
    assert short.status == late.status == "waiting"
    t.exhaust_kv(leave_pages=240 // t.engine_stats()["page_size"])
    t.continue_generation()
    yield from _until(lambda: long.finished)
    t.abort(late)
    yield from _until(lambda: short.finished and late.finished)
    t.flush_cache()
    yield
    assert long.client.token_ids == long.output_ids
    assert len(short.output_ids) == 6


@pytest.mark.parametrize(
    "more",
    [{}, {"page_size": 16, "disable_overlap_schedule": False}, {"dp_size": 2}],
    ids=["plain", "overlap-page16", "two-replicas"],
)
def test_a_script_has_the_same_events_as_in_process(more):
    digests = []
    for backend in ("reference:in_process", "reference:server"):
        with start_session(make_config(backend, {**_KWARGS, **more}, seed=5)) as engine:
            for _ in range(2):
                engine.execute_script(_script_of_many_turns)
                digests.append(engine.event_digest())
    assert len(set(digests)) == 1


def test_without_a_backend_the_embedded_engine_is_started(session):
    assert session.config.engine == "reference"
    assert session.pids.keys() == {session.main_pid, session.ready.pids["scheduler"]}
    assert {"http", "processes", "sglang_names"} <= session.capabilities


def _script_that_looks_at_what_was_refused(t):
    r = t.start_req(prompt_len=5000)
    assert r.finish_reason.message.startswith("The input (5000 tokens) is longer"), r.finish_reason
    assert r.client.http_status == 400
    yield


def test_a_refusal_carries_the_engines_words(session):
    session.execute_script(_script_that_looks_at_what_was_refused)


def _script_that_acts_before_it_yields(t):
    r = t.start_req(prompt_len=100, max_new_tokens=9)
    t.abort(r)
    q = t.start_req(prompt_len=100, max_new_tokens=9)
    t.pause_generation(mode="in_place")
    yield
    assert (r.status, q.status) == ("aborted", "waiting")
    assert t.batch_log == ()
    t.continue_generation()
    t.abort_all()
    late = t.start_req(prompt_len=100, max_new_tokens=1)
    yield
    yield
    assert (q.status, late.status) == ("aborted", "finished")


def test_requests_and_control_take_effect_in_the_order_of_the_script(session):
    session.execute_script(_script_that_acts_before_it_yields)


# -- over HTTP


def _script_of_control_over_http(t):
    r = t.start_req(prompt_len=100, seed=1, max_new_tokens=50, ignore_eos=True, rid="r")
    q = t.start_req(prompt_len=30, seed=2, max_new_tokens=50, ignore_eos=True, rid="q")
    yield from _until(lambda: r.output_ids and q.output_ids)
    t.pause_generation(mode="retract", via="http")
    assert r.status == "running", "it takes effect in the coming iteration"
    yield
    assert r.status == q.status == "waiting"
    late = t.start_req(prompt_len=20, seed=3, max_new_tokens=2)
    t.abort(q, via="http")
    yield
    assert q.status == "aborted"
    assert late.status == "waiting", "a pause lets requests in"
    t.continue_generation(via="http")
    yield from _until(lambda: late.finished)
    refused = t.flush_cache(via="http")
    yield
    assert refused.ok is False
    t.abort_all(via="http")
    yield from _until(lambda: r.finished)
    flushed = t.flush_cache(via="http")
    yield
    assert flushed.ok is True


def test_control_over_http_takes_effect_in_the_coming_iteration(session):
    session.execute_script(_script_of_control_over_http)


# -- others


def _script_that_hears_nothing_of_others(t, path):
    with open(path, "w"):  # a pipe: the other side begins when it is opened
        pass
    r = t.start_req(prompt_len=100, seed=1, max_new_tokens=30, ignore_eos=True, rid="mine")
    deadline = time.monotonic() + 10
    while t.tokenizer_recv_proxy.parked < 2:
        assert time.monotonic() < deadline, "what the others sent was not parked"
        yield
        assert {one.rid for one in t.list_active_reqs()} <= {"mine"}
    assert r.status != "aborted", "somebody else's abort_all waits, too"


def test_what_others_send_is_parked_and_answered_after_the_script(session, tmp_path):
    pipe = tmp_path / "begun"
    os.mkfifo(pipe)
    replies = {}

    def others():
        pipe.read_text()
        replies["abort"] = _post(session.base_url + "/abort_request", {"abort_all": True})
        sampling = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}
        replies["generate"] = _post(
            session.base_url + "/generate", {"input_ids": [5, 6, 7], "sampling_params": sampling}
        )

    thread = threading.Thread(target=others, daemon=True)
    thread.start()
    session.execute_script(_script_that_hears_nothing_of_others, args=(str(pipe),))
    thread.join(timeout=10)
    assert replies["abort"][0] == 200
    status, body = replies["generate"]
    assert (status, json.loads(body)["output_ids"]) == (200, expected_output([5, 6, 7], 4))


def _script_that_leaves_a_pause_behind(t):
    t.start_req(prompt_len=100, seed=1, max_new_tokens=30, ignore_eos=True)
    yield
    t.exhaust_kv(leave_pages=1)
    t.pause_generation(mode="in_place", via="http")
    yield
    raise AssertionError("a planned failure")


def test_after_a_failed_script_the_server_serves_others(session):
    with pytest.raises(ScriptFailed, match="a planned failure"):
        session.execute_script(_script_that_leaves_a_pause_behind)
    sampling = {"temperature": 0, "max_new_tokens": 3, "ignore_eos": True}
    body = {"input_ids": list(range(1000)), "sampling_params": sampling}
    status, reply = _post(session.base_url + "/generate", body)
    assert (status, json.loads(reply)["output_ids"]) == (200, expected_output(range(1000), 3))


def _script_that_asks_for_replicas(t):
    requests = [
        t.start_req(prompt_len=20, seed=i, max_new_tokens=3, dp_rank=rank)
        for i, rank in enumerate([1, 1, 0])
    ]
    yield
    owners = [[rank for rank in (0, 1) if r.rid in _replica(t, rank).requests] for r in requests]
    assert owners == [[1], [1], [0]]
    refused = t.start_req(prompt_len=20, dp_rank=2)
    assert "dp_rank is 0 to 1" in refused.finish_reason.message
    yield from _until(lambda: all(r.finished for r in requests))


def _replica(t, rank):
    return t.engine.engine.schedulers[rank]


def test_requests_reach_the_replica_that_they_name():
    with ScriptedHttpServer.start(dp_size=2, **_KWARGS) as started:
        started.execute_script(_script_that_asks_for_replicas)

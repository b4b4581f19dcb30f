"""The canary of a server: counters in `/metrics`, its health, perturbations by the environment."""

from __future__ import annotations

import importlib.util
import json
import time
import urllib.error
import urllib.request

import pytest
from scripted_chunked import run_until_finished
from scripted_core import InProcessSession, ScriptedHttpServer
from scripted_core.errors import ConfigError
from scripted_core.kv_report import KvUntil, status_from_json
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=6, stage="reference", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_client") is None
    or importlib.util.find_spec("torch") is None,
    reason="needs the capability 'installed prometheus-client and torch'",
)

_KWARGS = {"kv_canary": "log", "kv_canary_real_data": "all", "enable_metrics": True}
_DECODES = 5


@pytest.fixture(scope="module")
def server():
    """One server that breaks a slot before each forward that reads any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCRIPTED_KV_PERTURB", "used_slot:1:3")
        with ScriptedHttpServer.start(backend="reference", **_KWARGS) as started:
            yield started


def _get(server, path):
    try:
        with urllib.request.urlopen(server.base_url + path, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def _samples(server):
    from prometheus_client.parser import text_string_to_metric_families

    status, text = _get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, *(sample.labels.get(label, "") for label in ("pool", "reason", "launch"))): (
            sample.value
        )
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("scripted:kv_canary")
    }


def _generate(server, *, prompt=range(60), n=_DECODES + 1):
    body = {
        "input_ids": list(prompt),
        "sampling_params": {"max_new_tokens": n, "ignore_eos": True, "temperature": 0},
    }
    request = urllib.request.Request(server.base_url + "/generate", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


_COUNTER = "scripted:kv_canary_violations_total"
_FLIPPED = (_COUNTER, "full", "verify_real_kv_hash", "forward")


def test_each_reason_of_each_pool_has_a_counter(server):
    before = _samples(server)
    assert before[_COUNTER, "full", "verify_token", "sweep"] == 0
    assert before["scripted:kv_canary_running", "", "", ""] == 1
    _generate(server)
    after = _samples(server)
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    verified = changed.pop(("scripted:kv_canary_verified_slots_total", "", "", ""))
    assert verified == sum(60 + i for i in range(_DECODES))
    # What was armed at the prefill is done at the first decode as well; a broken slot stays broken, and
    # each further forward breaks one more.
    assert set(changed) == {_FLIPPED}
    assert _DECODES <= changed[_FLIPPED] <= sum(range(2, _DECODES + 2))


def test_the_report_is_what_the_counters_say_and_names_the_slots(server):
    status, body = _get(server, "/kv_canary")
    assert status == 200
    found = status_from_json(body)
    assert found.is_idle
    report = found.report
    assert report.violations_total == sum(one.total for one in report.counts)
    assert (report.mode, report.stopped) == ("log", ())
    assert {one.pool for one in report.last} <= {"full"}
    assert all(0 <= one.position < 66 and one.slot > 0 for one in report.last)


def test_a_question_waits_for_what_it_asks_for(server):
    report = status_from_json(_get(server, "/kv_canary")[1]).report
    begun = time.monotonic()
    path = f"/kv_canary?until={KvUntil.VIOLATION}&after={report.violations_total}&timeout_s="
    late = status_from_json(_get(server, f"{path}0.3")[1])
    assert time.monotonic() - begun >= 0.3
    assert late.report.violations_total == report.violations_total
    _generate(server)
    now = status_from_json(_get(server, f"{path}600")[1])
    assert now.report.violations_total > report.violations_total
    assert status_from_json(
        _get(server, f"/kv_canary?until={KvUntil.IDLE}&timeout_s=600")[1]
    ).is_idle


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("until=soon", "until='soon' is none of now, violation, idle"),
        ("after=-1", "after='-1' is no number from 0"),
        ("timeout_s=inf", "timeout_s='inf' is no number from 0 to 600"),
    ],
)
def test_a_wrong_question_is_named(server, query, said):
    status, body = _get(server, f"/kv_canary?{query}")
    assert status == 400
    assert said in json.loads(body)["error"]["message"]


def _no_longer_told(t):
    r = t.start_req(prompt_len=30, seed=4, max_new_tokens=6, ignore_eos=True)
    yield
    t.scheduler.kv_watch = None  # as a change of the engine might forget to
    yield from run_until_finished(r)


def _taken_away(t):
    t.canary.detach()
    yield


def test_a_canary_that_stopped_makes_the_server_unhealthy(server):
    """The last test of this server: nothing makes it healthy again."""
    assert _get(server, "/health") == (200, b"")
    server.execute_script(_no_longer_told)
    status, body = _get(server, "/health")
    assert status == 503
    assert "the KV canary has stopped running: full: the canary saw" in body.decode()
    samples = _samples(server)
    assert samples["scripted:kv_canary_running", "", "", ""] == 0
    assert samples[_COUNTER, "full", "canary_stopped", "health"] == 1
    server.execute_script(_taken_away)
    status, body = _get(server, "/health")
    assert (status, b"no KV canary runs, although kv_canary='log'" in body) == (503, True)


def test_a_canary_that_nobody_can_put_in_is_refused(monkeypatch):
    monkeypatch.setattr("scripted_reference.kv_watch.announce_engine", lambda port: None)
    with pytest.raises(ConfigError, match="kv_canary='log' asks for a canary, and no plugin"):
        InProcessSession.start(backend="reference", kv_canary="log")

"""What this package brings, used as its users would."""

from __future__ import annotations

import pytest
from scripted_chunked import run_until_all_finished
from scripted_core import ScriptedHttpServer
from scripted_core.errors import ConfigError
from scripted_registry import get_plugin_manager
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=10, stage="lighthouse", runner_config="lighthouse-box")


@pytest.mark.scripted(chunked_prefill_size=32, max_total_tokens=512, max_running_requests=2)
def test_a_burst_in_the_fog(t, burst):
    t.exhaust("fog", leave_pages=150)
    yield
    assert t.engine_stats()["kv_pool_free"] == 150
    handles = [
        t.start_req(prompt_len=tokens, seed=n, max_new_tokens=4, ignore_eos=True)
        for n, tokens in enumerate(burst)
    ]
    yield from run_until_all_finished(handles)
    assert [len(r.output_ids) for r in handles] == [4] * len(burst)


@pytest.mark.scripted(chunked_prefill_size=32, max_total_tokens=512, max_running_requests=2)
def test_fog_refuses_what_cannot_be(t):
    t.exhaust("fog", leave_pages=-1)
    with pytest.raises(ConfigError, match="leave_pages=-1"):
        yield


def test_the_kit_blinks():
    kit = get_plugin_manager().kits()["lighthouse-blink"]
    assert kit.distribution == "lighthouse-scripted"
    server = ScriptedHttpServer.start(backend="reference:server")
    try:
        assert kit.run(server.base_url, times=2) == [200, 200]
    finally:
        server.shutdown()


def test_the_stage_is_on_a_runner_of_its_own():
    plugins = get_plugin_manager()
    stage = plugins.ci_stages()["lighthouse-test-lighthouse-box"]
    assert plugins.ci_runners()[stage.runner].distribution == "lighthouse-scripted"


def test_the_invariant_sees_what_it_is_for():
    owners = {"a": 0, "b": 0}

    class Rows:
        num_rows = 1
        by_request = owners

    class Audit:
        pools = ()
        rows = Rows
        lock_refs = ()
        held_locks = 0
        is_idle = False

    codes = [one.code for one in get_plugin_manager().check_invariants(Audit(), step=1)]
    assert codes == ["lighthouse-over-capacity"]

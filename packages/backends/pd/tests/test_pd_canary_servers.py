"""Pairs of real servers under a canary: nothing is wrong, and what is broken on purpose is found."""

from __future__ import annotations

from scripted_backend_pd import Prompt, outputs_of_one_engine, pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_chunked import run_until_finished
from scripted_core import ScriptedHttpServer
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="pd", runner_config="cpu")

_PAIR = pair_kwargs(kv_canary="log", kv_canary_real_data="all")
_SMALL = {"num_reserved_decode_tokens": 4, "decode_kwargs": {"max_total_tokens": 400}}


def _nothing_is_wrong(t, at_least):
    assert t.canary.violations_total == 0, list(t.canary.violations.last(3))
    assert t.canary.verified_slots_total >= at_least
    yield


def _the_first_forward_finds_it(t):
    before = t.canary.forwards_seen("full")
    r = Prompt(100, seed=3).start(t)
    yield from run_until_finished(r)
    found = t.canary.violations.last(200)
    # It was broken behind each of the two chunks.
    assert [one.step for one in found].count(before + 1) == 2
    assert {(one.rid, one.reason.value) for one in found} == {(r.rid, "verify_real_kv_hash")}


def test_servers_that_copy_retract_and_send_again_have_nothing_wrong():
    expected = outputs_of_one_engine(scripts.CROWD, pair_kwargs())
    (long,) = outputs_of_one_engine([Prompt(256, seed=9)], pair_kwargs())
    with ScriptedHttpServer.start(backend="reference", **_PAIR, **_SMALL) as server:
        server.execute_script(scripts.decode_pages_run_out, args=(expected,))
        server.execute_script(scripts.prefill_loses_a_prompt_part_way, args=([long],))
        server.execute_script(scripts.chunks_are_stepped_and_reordered, args=([long],))
        server.execute_script(_nothing_is_wrong, args=(20_000,))


def test_servers_are_perturbed_by_their_environment(monkeypatch):
    monkeypatch.setenv("SCRIPTED_KV_PERTURB", "after_forward:1:7:full@prefill")
    with ScriptedHttpServer.start(backend="reference", **_PAIR) as server:
        server.execute_script(_the_first_forward_finds_it)

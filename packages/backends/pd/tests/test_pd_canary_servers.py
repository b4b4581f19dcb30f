"""Pairs of real servers under a canary: nothing is wrong, and what is broken on purpose is found."""

from __future__ import annotations

import os
import time
import urllib.request
from unittest import mock

import pytest
from scripted_backend_pd import PdPair, Prompt, outputs_of_one_engine, pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_backend_pd.case import PdTestCase
from scripted_canary.servers import KvCanaryTestCase, ServerCanary
from scripted_chunked import run_until_finished
from scripted_core import InProcessSession, ScriptedHttpServer
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="pd", runner_config="cpu")

_CANARY = {"kv_canary": "log", "kv_canary_real_data": "all"}
_REASON = "verify_real_kv_hash"


def _nothing_is_wrong(t, at_least):
    assert t.canary.violations_total == 0, list(t.canary.violations.last(3))
    assert t.canary.verified_slots_total >= at_least
    yield


@pytest.fixture(scope="module")
def clean_pair():
    """A pair whose decode engine is so small that requests have to give way there."""
    small = {"num_reserved_decode_tokens": 4, "decode_kwargs": {"max_total_tokens": 400}}
    with ScriptedHttpServer.start(backend="reference", **pair_kwargs(**_CANARY), **small) as pair:
        yield pair


def test_servers_that_copy_retract_and_send_again_have_nothing_wrong(clean_pair):
    expected = outputs_of_one_engine(scripts.CROWD, pair_kwargs())
    (long,) = outputs_of_one_engine([Prompt(256, seed=9)], pair_kwargs())
    canary = ServerCanary.of(clean_pair)
    clean_pair.execute_script(scripts.decode_pages_run_out, args=(expected,))
    clean_pair.execute_script(scripts.prefill_loses_a_prompt_part_way, args=([long],))
    clean_pair.execute_script(scripts.chunks_are_stepped_and_reordered, args=([long],))
    clean_pair.execute_script(_nothing_is_wrong, args=(20_000,))
    canary.assert_no_violation(wait_seconds=60)
    for side in ("prefill", "decode"):
        assert canary.report(side).verified_slots_total > 0


def test_the_baseline_identical_prompts_and_no_perturbation(clean_pair):
    canary, pair = ServerCanary.of(clean_pair), PdPair.of(clean_pair)
    verified = {side: canary.report(side).verified_slots_total for side in ("prefill", "decode")}
    for _ in range(2):
        pair.send_parallel_short_requests(n=4, max_new_tokens=16)
        for side in verified:
            canary.assert_no_violation(side=side, wait_seconds=60)
    for side, before in verified.items():
        assert canary.report(side).verified_slots_total > before
    with pytest.raises(AssertionError, match="within 0 s; the decode server: nothing was found"):
        canary.assert_per_forward_violation_reported(
            fail_reason=_REASON, side="decode", flush_wait_seconds=0
        )


def test_what_cannot_be_asked_is_named(clean_pair):
    canary = ServerCanary.of(clean_pair)
    with pytest.raises(ConfigError, match="side='left' is no server here"):
        canary.assert_no_violation(side="left")
    with pytest.raises(ConfigError, match="fail_reason='hash' is nothing that a canary finds"):
        canary.assert_per_forward_violation_reported(fail_reason="hash")
    with pytest.raises(ConfigError, match="target_group='swa' is no kind of pool here"):
        canary.assert_per_forward_violation_reported(fail_reason=_REASON, target_group="swa")
    with InProcessSession.start(backend="reference", kv_canary="log") as session:
        with pytest.raises(ConfigError, match="runs in this process and has no URLs"):
            ServerCanary.of(session)


def _the_first_forward_finds_it(t):
    before = t.canary.forwards_seen("full")
    r = Prompt(100, seed=3).start(t)
    yield from run_until_finished(r)
    found = t.canary.violations.last(200)
    assert [one.step for one in found].count(before + 1) == 1
    assert {(one.rid, one.reason.value) for one in found} == {(r.rid, _REASON)}


class PerturbedPairCase(KvCanaryTestCase, PdTestCase):
    """As the seeds write it: each forward of the prefill server breaks a slot that it has written."""

    # A prompt is one chunk, so that the prefill engine reads nothing of it back; a sweep would.
    ENGINE_KWARGS = pair_kwargs(
        **_CANARY, kv_canary_sweep_interval=0, chunked_prefill_size=1024, random_seed=27413
    )
    target_group = "full"

    @classmethod
    def setUpClass(cls) -> None:
        """The environment is that of both servers; only one has a pool of this name."""
        perturb = {"SCRIPTED_KV_PERTURB": "after_forward:1:7:full@prefill"}
        cls.enterClassContext(mock.patch.dict(os.environ, perturb))
        super().setUpClass()

    def setUp(self) -> None:
        """Begin with empty prefix trees, in which nothing is broken."""
        super().setUp()
        self._flush()

    def _flush(self) -> None:
        self.assert_no_violation(side="prefill", wait_seconds=60)  # until it is idle
        urllib.request.urlopen(f"{self.lb_url}/flush_cache", data=b"", timeout=60).close()

    def test_p_side_perturb_surfaces_real_kv_hash_violation_on_decode_side(self) -> None:
        """The test of the seeds, several times."""
        for _ in range(10):
            self.kv_canary.mark()
            self.send_parallel_short_requests(n=4, distinct_prompts=True, max_new_tokens=16)
            self.assert_per_forward_violation_reported(
                fail_reason=_REASON,
                target_group=self.target_group,
                side="decode",
                flush_wait_seconds=60.0,
            )
            self.assert_no_violation(side="prefill", wait_seconds=60.0)
            self._flush()

    def test_an_expectation_that_does_not_hold_fails(self) -> None:
        """Both assertions, the other way round; the silent side costs the whole wait."""
        self.send_parallel_short_requests(n=2, distinct_prompts=True, max_new_tokens=4)
        with pytest.raises(AssertionError, match=r"decode server: found: .* in full by a forw"):
            self.assert_no_violation(side="decode")
        with pytest.raises(AssertionError, match="violations where none should be"):
            self.assert_no_violation()
        begun = time.monotonic()
        with pytest.raises(AssertionError, match="the prefill server: nothing was found"):
            self.assert_per_forward_violation_reported(
                fail_reason=_REASON, side="prefill", flush_wait_seconds=0.2
            )
        assert time.monotonic() - begun >= 0.2
        with pytest.raises(AssertionError, match=r"reported verify_token .* verify_real_kv_hash"):
            self.assert_per_forward_violation_reported(
                fail_reason="verify_token", side="decode", flush_wait_seconds=0
            )

    def test_the_first_forward_finds_it(self) -> None:
        """In a script, where forwards can be counted."""
        self.server.execute_script(_the_first_forward_finds_it)
        with pytest.raises(AssertionError, match="violations where none should be"):
            self.assert_no_violation(side="decode")
        self.kv_canary.mark()
        self.assert_no_violation(wait_seconds=60)

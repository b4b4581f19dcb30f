"""pytest runs on the reference engine from end to end, each in a process of its own."""

from __future__ import annotations

import json

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=45, stage="reference", runner_config="cpu")

pytest_plugins = ["pytester"]


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on the reference engine, which is the default; warnings are errors."""
    for name in ("BACKEND", "PLUGINS", "DISABLE_PLUGINS", "STALL_TIMEOUT_S"):
        monkeypatch.delenv(f"SCRIPTED_{name}", raising=False)
    pytester.makeini("[pytest]\nfilterwarnings = error\n")
    return pytester.runpytest_subprocess


def test_every_kind_of_end_on_a_real_scheduler(pytester, run):
    pytester.makepyfile(
        test_it="""
        import pytest
        from scripted_chunked import advance_to_nth_chunk, run_until, run_until_finished
        from scripted_core.errors import EngineDied, StepsExhausted

        pytestmark = pytest.mark.scripted(chunked_prefill_size=64)

        def test_passes(t):
            r = t.start_req(prompt_len=253, max_new_tokens=4)
            yield from advance_to_nth_chunk(r, 2)
            t.pause_generation(mode="retract")
            yield
            assert r.status == "waiting"
            t.continue_generation()
            yield from run_until_finished(r)

        @pytest.mark.parametrize("n", [1, 3])
        class TestTokens:
            def test_count(self, t, n):
                r = t.start_req(prompt_len=8, max_new_tokens=n)
                yield from run_until_finished(r)
                assert len(r.output_ids) == n

        def test_assert(t):
            r = t.start_req(prompt_len=8, max_new_tokens=1)
            yield
            assert r.status == "no such status"

        def test_steps(t):
            r = t.start_req(prompt_len=8, max_new_tokens=500, ignore_eos=True)
            yield from run_until(r, lambda r: False, max_steps=3)

        def test_refused_by_the_exhauster(t):
            yield
            t.exhaust_kv(leave_pages=-1)

        def test_engine_died(t):
            yield
            raise EngineDied("it is said")

        def test_raises_around_a_yield(t):
            r = t.start_req(prompt_len=8, max_new_tokens=500, ignore_eos=True)
            with pytest.raises(StepsExhausted):
                yield from run_until(r, lambda r: False, max_steps=3)
            yield

        def test_requests_that_are_left_are_no_matter_of_the_next(t):
            assert t.is_fully_idle
            t.start_req(prompt_len=100, max_new_tokens=100)
            yield
            pytest.skip("half way")

        def test_last(t):
            assert t.is_fully_idle
            yield
        """
    )
    result = run("-v", "-rs", "--scripted-trace=traces")
    result.stdout.fnmatch_lines(
        [
            "scripted: engines installed: *reference*",
            "*::test_passes PASSED*",
            "*::test_count[[]1] PASSED*",
            "*::test_assert FAILED*",
            "*::test_steps FAILED*",
            "*::test_refused_by_the_exhauster ERROR*",
            "*::test_engine_died ERROR*",
            "*::test_raises_around_a_yield PASSED*",
            "*::test_last PASSED*",
            "E*assert *'no such status'",
            "E*StepsExhausted: run_until: *after 3 steps*",
            "SKIPPED*] test_it.py:*: half way",
        ]
    )
    result.assert_outcomes(passed=5, failed=2, errors=2, skipped=1)
    lines = (pytester.path / "traces" / "test_it.py_test_passes.jsonl").read_text().splitlines()
    states = [state for line in lines for state in json.loads(line)["states"].values()]
    assert {"chunk", "retracted", "decode"} <= set(states), states


def test_the_seed_decides_automatic_rids(pytester, run):
    pytester.makepyfile(
        """
        def test_rid(t):
            r = t.start_req(prompt_len=4, max_new_tokens=1)
            yield
            with open("rids.txt", "a") as file:
                file.write(r.rid + "\\n")
        """
    )
    run("--scripted-seed=1").assert_outcomes(passed=1)
    run("--scripted-seed=1").assert_outcomes(passed=1)
    run("--scripted-seed=2").assert_outcomes(passed=1)
    first, same, other = (pytester.path / "rids.txt").read_text().split()
    assert first == same != other


def test_ctrl_c_while_a_script_spins(pytester, run):
    pytester.makepyfile(
        """
        import os
        import signal
        import threading
        import time

        def test_spins(t):
            t.start_req(prompt_len=8, max_new_tokens=100)
            yield
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                yield

        def test_never_reached(t):
            yield
        """
    )
    result = run()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*"])
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()

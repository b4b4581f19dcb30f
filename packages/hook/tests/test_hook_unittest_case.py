from __future__ import annotations

import unittest

import pytest
from scripted_core import ScriptedTestCase
from scripted_core.testing import FakeEngine
from scripted_hook import ScriptedSchedulerHook
from scripted_registry import EngineMode, EngineSpec, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

SCRIPTED_API = 1


class _Plugin:
    def __init__(self):
        self.engines = []

    @hookimpl
    def scripted_register_engines(self):
        return [EngineSpec(name="fake", summary="a fake", modes=(EngineMode.IN_PROCESS,))]

    @hookimpl
    def scripted_make_engine(self, config):
        engine = FakeEngine(**config.kwargs)
        self.engines.append(engine)
        return engine.connect(
            ScriptedSchedulerHook(
                scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine
            )
        )


@pytest.fixture
def plugin(plugins, monkeypatch):
    monkeypatch.delenv("SCRIPTED_BACKEND", raising=False)
    one = _Plugin()
    plugins.register(one, name="fake-plugin")
    return one


def run(case):
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return result


def _script_sizes(t, pages):
    yield
    assert t.engine_stats()["kv_pool_total"] == pages


def _script_skips(t):
    raise unittest.SkipTest("not this one")
    yield


def _script_hangs(t):
    while True:
        yield


def test_one_engine_for_the_class_with_its_arguments_and_real_outcomes(plugin):
    class TestCase(ScriptedTestCase):
        ENGINE_KWARGS = {"num_pages": 24}  # noqa: RUF012

        def test_a_passes(self):
            self.server.execute_script(_script_sizes, args=(24,))

        def test_b_fails(self):
            self.server.execute_script(_script_sizes, args=(25,))

        def test_c_skips(self):
            self.server.execute_script(_script_skips)

    result = run(TestCase)
    assert result.testsRun == 3
    assert result.errors == []
    assert [case.id().rpartition(".")[2] for case, _ in result.failures] == ["test_b_fails"]
    assert [reason for _, reason in result.skipped] == ["not this one"]
    assert len(plugin.engines) == 1


def test_a_dirty_engine_is_replaced_for_the_next_test(plugin):
    class TestCase(ScriptedTestCase):
        def test_a_hangs(self):
            self.server.execute_script(_script_hangs, timeout_s=0.05)

        def test_b_passes(self):
            self.server.execute_script(_script_sizes, args=(64,))

    result = run(TestCase)
    assert [case.id().rpartition(".")[2] for case, _ in result.errors] == ["test_a_hangs"]
    assert result.failures == []
    assert len(plugin.engines) == 2

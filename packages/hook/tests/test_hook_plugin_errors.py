"""A plugin that fails in a hook of an iteration: its fault, not that of an expectation."""

from __future__ import annotations

import pytest
from scripted_core.errors import PluginError
from scripted_registry import hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

SCRIPTED_API = 1


def runs_a_request(t):
    r = t.start_req(prompt_len=20, max_new_tokens=4)
    for _ in range(50):
        try:
            yield
        except Exception:  # not even a script that catches everything hides it
            continue
        if r.finished:
            return


class _Steps:
    @hookimpl
    def scripted_on_step(self, step):
        if step == 2:
            raise ValueError("a mistake of the plugin's")


class _Batches:
    @hookimpl
    def scripted_on_batch(self, record):
        raise ValueError("a mistake of the plugin's")


class _Resets:
    @hookimpl
    def scripted_on_reset(self, context):
        raise ValueError("a mistake of the plugin's")


class _Invariants:
    @hookimpl
    def scripted_check_invariants(self, audit):
        raise ValueError("a mistake of the plugin's")


@pytest.mark.parametrize("plugin", [_Steps, _Batches, _Resets, _Invariants])
def test_what_a_plugin_breaks_is_an_error_of_the_plugin(plugins, make_engine, run_script, plugin):
    broken = plugin()
    plugins.register(broken, name="breaks")
    engine = make_engine()
    outcome = run_script(engine, runs_a_request)
    assert type(outcome.error) is PluginError
    assert not isinstance(outcome.error, AssertionError)
    assert "failed: ValueError: a mistake of the plugin's" in str(outcome.error)
    assert isinstance(outcome.error.__cause__, ValueError)
    assert "in scripted_" in outcome.traceback_text
    # The engine goes on.
    plugins.unregister(broken)
    assert run_script(make_engine(), runs_a_request).error is None

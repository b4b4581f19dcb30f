"""`NAME:MODE`, wherever an engine is named."""

from __future__ import annotations

import pytest
from scripted_core.errors import ConfigError
from scripted_core.sessions import base
from scripted_core.sessions.base import backend_name, make_config, parse_backend
from scripted_registry import EngineMode, EngineSpec, PluginManager, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_BOTH = (EngineMode.IN_PROCESS, EngineMode.SERVER)


class _Engines:
    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_engines(self):
        return [
            EngineSpec(name="reference", summary="both", modes=_BOTH),
            EngineSpec(name="remote", summary="server only", modes=(EngineMode.SERVER,)),
        ]


@pytest.fixture(autouse=True)
def two_engines(monkeypatch):
    plugins = PluginManager(environ={})
    plugins.register(_Engines(), name="engines-of-this-test")
    monkeypatch.setattr(base, "get_plugin_manager", lambda: plugins)
    monkeypatch.delenv("SCRIPTED_BACKEND", raising=False)


@pytest.mark.parametrize(
    ("backend", "mode", "expected"),
    [
        ("reference", None, EngineMode.IN_PROCESS),
        ("reference:server", None, EngineMode.SERVER),
        ("reference:in_process", None, EngineMode.IN_PROCESS),
        ("reference", EngineMode.SERVER, EngineMode.SERVER),
        ("reference:server", EngineMode.SERVER, EngineMode.SERVER),
        (None, EngineMode.SERVER, EngineMode.SERVER),
        (None, None, EngineMode.IN_PROCESS),
    ],
)
def test_the_mode_is_the_named_one_then_the_asked_one_then_the_preferred(backend, mode, expected):
    config = make_config(backend, {}, mode=mode)
    assert (config.engine, config.mode) == ("reference", expected)


def test_the_environment_names_a_mode_too(monkeypatch):
    monkeypatch.setenv("SCRIPTED_BACKEND", "reference:server")
    assert make_config(None, {}).mode is EngineMode.SERVER
    assert make_config("reference", {}).mode is EngineMode.IN_PROCESS


@pytest.mark.parametrize(
    ("backend", "mode", "message"),
    [
        ("reference:sever", None, "'sever' is no mode"),
        ("reference:", None, "'' is no mode"),
        ("remote:in_process", None, "does not run in_process"),
        ("reference:server", EngineMode.IN_PROCESS, "has to run in_process"),
    ],
)
def test_a_mode_that_is_none_or_does_not_fit_is_refused_with_what_would(backend, mode, message):
    with pytest.raises(ConfigError, match=message) as caught:
        make_config(backend, {}, mode=mode)
    assert caught.value.hint


def test_a_name_is_read_as_it_is_written():
    for mode in EngineMode:
        assert parse_backend(backend_name("remote", mode)) == ("remote", mode)

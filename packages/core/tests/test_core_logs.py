"""Log events carry their context, in either format, and leave other loggers alone."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog
from scripted_core.errors import ConfigError
from scripted_core.logs import (
    LogFormat,
    environ_format,
    environ_level,
    get_logger,
    make_logger,
    set_log_context,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


@pytest.fixture(autouse=True)
def no_context():
    yield
    set_log_context(session=None, script=None, step=None, rank=None)


def test_json_events_carry_session_script_step_and_rank():
    out = io.StringIO()
    log = make_logger("scripted.test", LogFormat.JSON, logging.INFO, out)
    set_log_context(session="s1", script="test_x", step=3, rank="tp0")
    log.info("batch ran", rids=["a"])
    set_log_context(step=None)
    log.info("over")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert first["event"] == "batch ran"
    assert (first["session"], first["script"], first["step"], first["rank"]) == (
        "s1",
        "test_x",
        3,
        "tp0",
    )
    assert first["rids"] == ["a"]
    assert first["logger"] == "scripted.test"
    assert first["level"] == "info"
    assert "step" not in second


def test_an_exception_is_one_json_field():
    out = io.StringIO()
    log = make_logger("scripted.test", LogFormat.JSON, logging.INFO, out)
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("broke")
    assert "ValueError: inner" in json.loads(out.getvalue())["exception"]


def test_console_events_are_one_line_without_colour_in_a_pipe():
    out = io.StringIO()
    make_logger("scripted.test", LogFormat.CONSOLE, logging.INFO, out).info("hello", n=1)
    assert "hello" in out.getvalue()
    assert "n=1" in out.getvalue()
    assert "\x1b[" not in out.getvalue()


def test_events_below_the_level_are_not_written():
    out = io.StringIO()
    log = make_logger("scripted.test", LogFormat.JSON, logging.WARNING, out)
    log.info("quiet")
    assert out.getvalue() == ""


def test_the_default_logger_writes_warnings_to_stderr_of_the_moment(capsys):
    get_logger("scripted.test").warning("look")
    get_logger("scripted.test").info("not this")
    assert "look" in capsys.readouterr().err


def test_unknown_formats_and_levels_are_refused_by_name():
    with pytest.raises(ConfigError, match="SCRIPTED_LOG='xml'"):
        environ_format({"SCRIPTED_LOG": "xml"})
    with pytest.raises(ConfigError, match="SCRIPTED_LOG_LEVEL='loud'"):
        environ_level({"SCRIPTED_LOG_LEVEL": "loud"})
    assert environ_format({"SCRIPTED_LOG": "json"}) is LogFormat.JSON
    assert environ_level({"SCRIPTED_LOG_LEVEL": "debug"}) == logging.DEBUG


def test_the_applications_structlog_configuration_is_untouched():
    before = structlog.get_config()
    make_logger("scripted.test", LogFormat.JSON, logging.INFO, io.StringIO()).info("x")
    assert structlog.get_config() == before

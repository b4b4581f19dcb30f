"""The pytest plugin: a test may *be* its script.

A generator function that takes ``t`` (or carries ``@pytest.mark.scripted``) is collected and run
inside an engine, one scheduler iteration for each ``yield``. Everything beyond collection is
imported when the first such test is found, so that other runs pay next to nothing.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator
from typing import Any

import pytest

from scripted_core.pytest_plugin._options import (
    add_options,
    backends,
    check_options,
    option,
    register_markers,
)

__all__: list[str] = []

_runtime_key: pytest.StashKey[Any] = pytest.StashKey()
_FIXTURES = frozenset({"scripted_backend", "scripted_session"})


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the command line and their ini twins."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Hooks that a conftest may implement."""
    from scripted_registry import pytest_hookspecs

    pluginmanager.add_hookspecs(pytest_hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Markers; ``UsageError`` for an option that cannot be used."""
    register_markers(config)
    check_options(config)


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(
    collector: pytest.Module | pytest.Class, name: str, obj: object
) -> Any:
    """Hand pytest a plain function with the same signature in place of the generator function.

    pytest itself refuses test functions that yield. Asking its own hook again keeps fixtures,
    parametrization, ``-k``, ``--collect-only`` and classes as they are for any test.
    """
    if _is_scripted_class(obj):
        _ensure_runtime(
            collector.config
        )  # its engine is one of this run, also when it stands alone
        return None
    function = obj.__func__ if isinstance(obj, (staticmethod, classmethod)) else obj
    if not inspect.isfunction(function) or not collector.funcnamefilter(name):
        return None
    if not inspect.isgeneratorfunction(function):
        if _is_marked(function) or not _FIXTURES.isdisjoint(function.__code__.co_varnames):
            _ensure_runtime(collector.config)  # a plain test that drives the engine by itself
        return None
    if not _is_scripted(collector, function):
        return None
    _ensure_runtime(collector.config)
    from scripted_core.pytest_plugin._collect import plain_twin

    return collector.ihook.pytest_pycollect_makeitem(
        collector=collector, name=name, obj=plain_twin(function)
    )


def _is_scripted(collector: pytest.Module | pytest.Class, function: Any) -> bool:
    if "t" in inspect.signature(function).parameters:
        return True
    return _is_marked(function) or collector.get_closest_marker("scripted") is not None


def _is_scripted_class(obj: object) -> bool:
    """Whether it is a `ScriptedTestCase`; who has not imported that module can have none."""
    module = sys.modules.get("scripted_core.unittest_case")
    return module is not None and inspect.isclass(obj) and issubclass(obj, module.ScriptedTestCase)


def _is_marked(function: Any) -> bool:
    return any(mark.name == "scripted" for mark in getattr(function, "pytestmark", ()))


def _ensure_runtime(config: pytest.Config) -> Any:
    """The part of the plugin that runs scripts; made, and its fixtures registered, on first use."""
    runtime = config.stash.get(_runtime_key, None)
    if runtime is None:
        from scripted_core.pytest_plugin._runtime import ScriptedRuntime

        runtime = ScriptedRuntime(config)
        config.stash[_runtime_key] = runtime
        config.pluginmanager.register(runtime, "scripted-runtime")
    return runtime


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a scripted item."""
    runtime = pyfuncitem.config.stash.get(_runtime_key, None)
    if runtime is None or not runtime.is_scripted(pyfuncitem):
        return None
    runtime.run(pyfuncitem)
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn errors of the harness or the engine into ERROR; only expectations FAIL."""
    report = yield
    runtime = item.config.stash.get(_runtime_key, None)
    if runtime is not None and not runtime.is_scripted(item):
        runtime = None
    if call.excinfo is not None and report.failed:
        from scripted_core.pytest_plugin import _reports

        if not _reports.expect_what_the_script_raised(report, call.excinfo.value, item):
            _reports.as_error_if_not_an_expectation(
                report, call.excinfo, item, is_scripted=runtime is not None
            )
        if runtime is not None:
            _reports.shorten(report)
    if call.excinfo is not None and report.skipped and runtime is not None:
        from scripted_core.pytest_plugin._reports import locate_skip

        locate_skip(report, call.excinfo, item)
    if runtime is not None and call.when == "call":
        runtime.add_sections(item, report)
    return report


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """``ERROR`` for what ``pytest_runtest_makereport`` has marked so."""
    if getattr(report, "scripted_error", False):
        return "error", "E", "ERROR"
    return None


def pytest_report_header(config: pytest.Config) -> str | None:
    """Which engines scripted tests would run on, when that was said."""
    attach = option(config, "scripted_attach")
    if attach is not None:
        return f"scripted: attach {attach}"
    chosen = backends(config)
    if not chosen:
        return None
    return f"scripted: backend {', '.join(chosen)}"

"""Hooks of the pluggy project "pytest" that the scripted pytest plugin adds.

They are implemented in a `conftest.py` or a pytest plugin like any pytest hook, without a marker.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Set
from typing import Any

from pluggy import HookspecMarker

from scripted_registry.specs import EngineConfig

hookspec = HookspecMarker("pytest")


@hookspec
def pytest_scripted_configure_engine(config: Any, engine_config: EngineConfig) -> None:
    """Called on the test side before an engine is started for a scripted item.

    `config` is the `pytest.Config`. `engine_config` is read-only: raise `pytest.UsageError` or
    `pytest.skip` to refuse it, set environment variables or write files to prepare for it.
    """


@hookspec(firstresult=True)
def pytest_scripted_skip_reason(item: Any, capabilities: Set[str]) -> str | None:
    """Return why `item` must be skipped on an engine with `capabilities`, or `None` to run it.

    Called on the test side before the setup of each scripted item, once its engine's capabilities
    are known. `item` is the `pytest.Item`. The first reason that is returned is the one reported.
    """


@hookspec(firstresult=True)
def pytest_scripted_engine_group(item: Any) -> str | None:
    """Return a name for the engine configuration that `item` runs on, or `None` for no engine.

    Called on the test side after collection, when `scripted ci run` divides tests among machines:
    tests of the same name cost one start of an engine on each machine. The scripted plugin answers
    for scripted items; another plugin answers for fixtures of its own that start something dear.
    """

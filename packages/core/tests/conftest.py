from __future__ import annotations

import pytest
from hypothesis import settings
from scripted_registry import PluginManager

# A test run leaves no files behind, and is the same every time.
settings.register_profile(
    "scripted", database=None, deadline=None, derandomize=True, max_examples=60
)
settings.load_profile("scripted")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    """A plugin manager with the built-ins only, in place of the one with all that is installed."""
    manager = PluginManager(environ={})
    monkeypatch.setattr("scripted_registry.manager._process_manager", manager)
    return manager

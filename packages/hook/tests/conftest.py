from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from scripted_core.testing import FakeEngine
from scripted_hook import ScriptedSchedulerHook
from scripted_registry import PluginManager

MakeEngine = Callable[..., FakeEngine]

# A test run leaves no files behind, and is the same every time.
settings.register_profile(
    "scripted", database=None, deadline=None, derandomize=True, max_examples=60
)
settings.load_profile("scripted")


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> PluginManager:
    """A plugin manager with the built-ins only, in place of the one with all that is installed."""
    manager = PluginManager(environ={})
    monkeypatch.setattr("scripted_registry.manager._process_manager", manager)
    return manager


@pytest.fixture
def make_engine(plugins: PluginManager) -> Iterator[MakeEngine]:
    """Fake engines with a hook."""
    made: list[FakeEngine] = []

    def make(**kwargs: Any) -> FakeEngine:
        engine = FakeEngine(**kwargs)
        made.append(engine)
        hook = ScriptedSchedulerHook(
            scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine
        )
        return engine.connect(hook)

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def run_script() -> Callable[..., Any]:
    """Run a script on an engine and give its outcome back, whatever it is."""

    def run(engine: FakeEngine, function: Callable[..., Any], *args: Any, **job: Any) -> Any:
        engine.hook.start_job(name=function.__name__, function=function, args=args, **job)
        for _ in range(2000):
            if engine.hook.outcome is not None:
                return engine.hook.outcome
            engine.iterate()
        raise AssertionError("the script did not end within 2000 iterations")

    return run

from __future__ import annotations

import subprocess
import sys

import pytest
import scripted_core
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

HEAVY = ("zmq", "aiohttp", "structlog", "msgspec", "numpy", "torch", "rich", "typer", "asyncio")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


def test_the_package_is_light() -> None:
    loaded = loaded_after("import scripted_core")
    assert not loaded & {*HEAVY, "pytest", "scripted_registry"}


def test_the_pytest_plugin_is_light() -> None:
    before = loaded_after("import pytest")
    loaded = loaded_after("import pytest; import scripted_core.pytest_plugin") - before
    assert not loaded & set(HEAVY)


def test_errors_come_without_the_wire() -> None:
    loaded = loaded_after("from scripted_core import ScriptFailed")
    assert not loaded & set(HEAVY)


def test_the_test_kit_does_not_need_numpy() -> None:
    loaded = loaded_after("from scripted_core.testing import FakeEngine; FakeEngine().iterate()")
    assert "numpy" not in loaded
    assert "scripted_hook" not in loaded


@pytest.mark.parametrize("name", [name for name in scripted_core.__all__])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(scripted_core, name) is not None
    assert name in dir(scripted_core)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = scripted_core.no_such_name

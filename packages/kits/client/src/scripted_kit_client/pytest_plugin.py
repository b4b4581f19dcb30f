"""Fixtures for tests that run kits: `kit_target`, the server, and `run_kit`.

Nothing heavy is imported here: pytest loads this in every run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from scripted_kit_client.report import KitReport
    from scripted_kit_client.target import Target


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kit-url` and `--kit-api-key`."""
    group = parser.getgroup("scripted kits", "ready-made checks against a running server")
    group.addoption("--kit-url", metavar="URL", default=None, help="server that kits run against")
    group.addoption(
        "--kit-api-key",
        metavar="KEY",
        default=None,
        help="its API key (default: $SCRIPTED_KIT_API_KEY)",
    )


@pytest.fixture(scope="session")
def kit_target(request: pytest.FixtureRequest) -> Target:
    """The server of `--kit-url`; override it to start one. Skips when there is none."""
    url = request.config.getoption("kit_url")
    if url is None:
        pytest.skip("no server to run kits against: give --kit-url URL")
    from scripted_kit_client.target import Target

    key = request.config.getoption("kit_api_key") or os.environ.get("SCRIPTED_KIT_API_KEY")
    return Target(url=url, api_key=key or None)


@pytest.fixture
def run_kit(kit_target: Target) -> Callable[..., KitReport]:
    """`run_kit("occupancy", threshold=90)`: print the report, fail or skip by it, and return it."""
    from scripted_kit_client.running import run_installed

    def run(name: str, **options: Any) -> KitReport:
        from scripted_core.errors import CapabilityMissing

        try:
            return run_installed(name, kit_target, options)
        except CapabilityMissing as missing:
            pytest.skip(str(missing))

    return run

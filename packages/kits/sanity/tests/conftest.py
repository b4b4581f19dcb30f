"""Servers of the engine under test, started once for all tests that want the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from scripted_core.sessions.base import parse_backend
from scripted_kit_client import Target, free_url, kill_process_tree, popen_launch_server

DEVICE_TIMER = {"SGLANG_ENABLE_METRICS_DEVICE_TIMER": "1"}


@pytest.fixture(scope="session")
def engine_name(request: pytest.FixtureRequest) -> str:
    chosen = request.config.getoption("scripted_backend") or [os.environ.get("SCRIPTED_BACKEND")]
    return "reference" if chosen[0] is None else parse_backend(chosen[0])[0]


@pytest.fixture(scope="session")
def start(engine_name: str) -> Iterator[Callable[..., Target]]:
    """`start("--flag", …)`: the server with the trained checkpoint and these flags."""
    running: dict[tuple[str, ...], tuple[Target, int]] = {}

    def begin(*flags: str) -> Target:
        if flags not in running:
            url = free_url()
            # SGLang's timer takes events of a GPU, and its scheduler would end without one.
            env = DEVICE_TIMER if engine_name == "reference" else {}
            process = popen_launch_server(
                "tiny",
                url,
                backend=engine_name,
                other_args=["--enable-metrics", *flags],
                env=env,
            )
            running[flags] = (Target(url=url), process.pid)
        return running[flags][0]

    yield begin
    for _, pid in running.values():
        kill_process_tree(pid)


@pytest.fixture
def seeded_faults(engine_name: str) -> None:
    if engine_name != "reference":
        pytest.skip(f"engine {engine_name!r} lacks the capability 'seeded faults' (inject_fault)")

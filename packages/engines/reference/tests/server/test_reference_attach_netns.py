"""Attaching from one network namespace to a server in another: two machines, as far as TCP can tell."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_core.errors import EngineDied, EngineUnreachable
from scripted_core.sessions import ScriptedHttpServer
from scripted_core.wire.dial import REMOTE_DEATH_S
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=8, stage="reference", runner_config="cpu")

HERE, THERE = "10.213.77.1", "10.213.77.2"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=10)


class Namespace:
    """A network namespace with one cable to this one."""

    def __init__(self) -> None:
        self.name = f"scripted-{secrets.token_hex(3)}"
        self.cable = f"sc{secrets.token_hex(3)}"
        _ip("netns", "add", self.name)
        try:
            _ip(
                "link",
                "add",
                self.cable,
                "type",
                "veth",
                "peer",
                "name",
                "there",
                "netns",
                self.name,
            )
            _ip("addr", "add", f"{HERE}/30", "dev", self.cable)
            _ip("link", "set", self.cable, "up")
            for command in (
                ("addr", "add", f"{THERE}/30", "dev", "there"),
                ("link", "set", "there", "up"),
                ("link", "set", "lo", "up"),
            ):
                _ip("-n", self.name, *command)
        except BaseException:
            self.remove()
            raise

    def unplug(self) -> None:
        _ip("link", "set", self.cable, "down")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=False, timeout=10)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if shutil.which("ip") is None:
        pytest.skip("needs the capability 'ip' (iproute2)")
    if os.geteuid() != 0:
        pytest.skip("needs the capability 'CAP_NET_ADMIN' (be root)")
    try:
        made = Namespace()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs the capability 'network namespaces': {error.stderr.strip()}")
    yield made
    made.remove()


def finishes_a_request(t: Any) -> Any:
    r = t.start_req(prompt_len=20, max_new_tokens=4, seed=1)
    while not r.finished:
        yield


def steps_forever(t: Any) -> Any:
    while True:
        yield


def test_scripts_run_across_and_a_machine_that_vanishes_is_noticed(
    namespace: Namespace, start_elsewhere: Callable[..., Any]
) -> None:
    server = start_elsewhere(
        within=("ip", "netns", "exec", namespace.name),
        listen=f"tcp://{THERE}:0",
        host="0.0.0.0",
    )
    address = server.address
    assert address.startswith(f"tcp://{THERE}:")
    with server.attach() as session:
        session.execute_script(finishes_a_request)
        # What kits are told to use is reachable from here. The scheduler takes clients before the
        # front takes requests, so the front's own word is awaited.
        port = server.url.rpartition(":")[2]
        assert session.base_url == f"http://{THERE}:{port}"
        with urllib.request.urlopen(f"{session.base_url}/health", timeout=10) as answer:
            assert answer.status == 200
    session = server.attach()
    unplugged = []

    def on_step(step: Any) -> None:
        if not unplugged:
            namespace.unplug()
            unplugged.append(time.monotonic())

    with pytest.raises(EngineDied, match=rf"silent for {REMOTE_DEATH_S:g} s"):
        session.execute_script(steps_forever, on_step=on_step)
    assert time.monotonic() - unplugged[0] < REMOTE_DEATH_S + 2.0
    session.shutdown()
    begun = time.monotonic()
    with pytest.raises(EngineUnreachable, match="cannot reach"):
        ScriptedHttpServer.attach(address, key_file=server.keys / "client.key", timeout_s=1.0)
    assert time.monotonic() - begun < 3.0

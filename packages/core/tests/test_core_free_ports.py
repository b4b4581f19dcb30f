"""Ports for servers that are about to be started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from scripted_core import free_ports as module
from scripted_core.errors import EngineStartError
from scripted_core.free_ports import free_port, free_ports
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")


@pytest.fixture
def system_gives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def give(words: str | None) -> None:
        place = tmp_path / "ip_local_port_range"
        if words is not None:
            place.write_text(words)
        monkeypatch.setattr(module, "_GIVEN_BY_THE_SYSTEM", place)

    return give


def test_no_connection_of_another_program_can_take_one(system_gives) -> None:
    system_gives("20000\t60999\n")
    assert all(10_000 <= port < 20_000 for port in free_ports("127.0.0.1", 50))
    system_gives(None)  # a system without the file
    assert all(10_000 <= port < 32_768 for port in free_ports("127.0.0.1", 50))


def test_ports_of_one_call_and_of_the_next_differ() -> None:
    found = [port for _ in range(20) for port in free_ports("127.0.0.1", 12)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_one_that_is_taken_is_passed_over(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        taken.listen()
        drawn = [port, port, free_port()]
        monkeypatch.setattr(module, "_candidate", lambda: drawn.pop(0))
        assert free_port(host) != port
        assert drawn == []


def test_where_the_system_gives_all_away_its_own_offers_are_taken(system_gives) -> None:
    system_gives("1024 65535")
    assert len(set(free_ports("127.0.0.1", 12))) == 12


def test_none_is_above_what_the_caller_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [60_998, 60_997, 30_123, 30_124, 30_125]
    monkeypatch.setattr(module, "_candidate", lambda: drawn.pop(0))
    assert free_port(highest=55_535) < 55_535
    monkeypatch.setattr(module, "_candidate", lambda: 0)
    with pytest.raises(EngineStartError, match=r"no free port up to 1023") as caught:
        free_port(highest=1023)
    assert caught.value.hint


def test_a_host_that_is_not_this_machines_is_said_as_such() -> None:
    with pytest.raises(OSError, match="Cannot assign requested address"):
        free_port("203.0.113.9")
    with pytest.raises(socket.gaierror):
        free_port("no-such-host.invalid")


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_ipv6() -> None:
    assert free_port("::1") > 0

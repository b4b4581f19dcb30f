"""The options of the router: wrong ones end it before it serves, and say what is wrong."""

from __future__ import annotations

import sys

import pytest
from scripted_core.wire.address import ENV_WIRE
from scripted_hook.pair import router
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_GOOD = {
    "--prefill": "http://127.0.0.1:30001",
    "--decode": "http://127.0.0.1:30002",
    "--port": "30000",
    "--bootstrap-port": "8998",
}


@pytest.fixture
def started(monkeypatch):
    """Run the program with options; what it would have served."""
    served = []

    async def serve(workers, *, host, port):
        served.append((workers, host, port))

    def start(options):
        argv = [f"{name}={value}" for name, value in options.items()]
        monkeypatch.setattr(sys, "argv", ["router", *argv])
        router.main()
        return served.pop()

    monkeypatch.setattr(router, "serve", serve)
    monkeypatch.delenv(ENV_WIRE, raising=False)
    return start


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--port", "99999999", "'99999999' is no port: give 1 to 65535"),
        ("--port", "0", "'0' is no port"),
        ("--port", "http", "'http' is no port"),
        ("--bootstrap-port", "-3", "'-3' is no port"),
        ("--prefill", "x", "'x' is no URL of a server: give one like http://"),
        ("--prefill", "ftp://a", "'ftp://a' is no URL"),
        ("--prefill", "http://", "'http://' is no URL"),
        ("--decode", "http://a:99999", "'http://a:99999' is no URL"),
        ("--decode", "http://a:x", "'http://a:x' is no URL"),
        ("--decode", "http://[::1", "'http://[::1' is no URL"),
        ("--decode", "http://a b", "'http://a b' is no URL"),
        ("--decode", "http://a?b", "'http://a?b' is no URL"),
    ],
)
def test_wrong_options_are_named(started, capsys, option, value, said):
    with pytest.raises(SystemExit) as ended:
        started({**_GOOD, option: value})
    assert ended.value.code == 2
    assert f"argument {option}: {said}" in capsys.readouterr().err


def test_good_options_are_served(started):
    workers, host, port = started({**_GOOD, "--decode": "https://[::1]:30002/"})
    assert (workers.prefill, workers.bootstrap_host) == ("http://127.0.0.1:30001", "127.0.0.1")
    assert (workers.decode, workers.bootstrap_port) == ("https://[::1]:30002", 8998)
    assert (host, port) == ("127.0.0.1", 30000)

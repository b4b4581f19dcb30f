"""Waiting for an engine's HTTP front."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from scripted_core.errors import EngineStartError
from scripted_core.sessions.launch import ServerLaunch

_INTERVAL_S = 0.02


def await_http(
    launch: ServerLaunch,
    *,
    deadline: float,
    poll: Callable[[], object],
    log_tail: Callable[[], str],
) -> None:
    """Ask ``launch.ready_path`` until it answers 200.

    A port that is not open yet has no event to wait for, so this asks again every 20 ms under
    ``deadline`` (``time.monotonic``), and calls ``poll`` between two tries, which raises when a
    process of the engine has ended.
    """
    answer = "nothing"
    while time.monotonic() < deadline:
        poll()
        connection = http.client.HTTPConnection(launch.host, launch.port, timeout=2)
        try:
            connection.request("GET", launch.ready_path)
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                return
            answer = f"status {response.status}"
        except (OSError, http.client.HTTPException) as error:
            answer = f"{type(error).__name__}: {error}"
        finally:
            connection.close()
        time.sleep(_INTERVAL_S)
    raise EngineStartError(
        f"{launch.base_url}{launch.ready_path} did not answer 200 in time (last: {answer})\n\n"
        f"log tail:\n{log_tail()}"
    )

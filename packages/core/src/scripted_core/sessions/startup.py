"""Waiting for an engine's HTTP front."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable

from scripted_core.errors import EngineStartError, HandshakeError, ProtocolMismatch
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.wire.messages import PROTOCOL_VERSION, HookReady

_INTERVAL_S = 0.02
_SILENCE_S = 5.0
_PLUGIN_LINES = 12
_TAIL_CHARACTERS = 6000


def ask_http(launch: ServerLaunch, *, timeout_s: float = 2.0) -> str | None:
    """``None`` when ``launch.ready_path`` answers 200 now; otherwise what came instead."""
    connection = http.client.HTTPConnection(launch.host, launch.port, timeout=timeout_s)
    try:
        connection.request("GET", launch.ready_path)
        response = connection.getresponse()
        response.read()
        return None if response.status == 200 else f"status {response.status}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        connection.close()


def check_hello(ready: HookReady, *, engine: str) -> None:
    """Raise ``HandshakeError`` unless ``ready`` comes from our hooks, at work in ``engine``."""
    if ready.protocol_version != PROTOCOL_VERSION:
        raise ProtocolMismatch(
            f"the engine side speaks wire protocol {ready.protocol_version}, "
            f"this side {PROTOCOL_VERSION}",
            hint="install the same scripted-core for the tests and for the engine",
        )
    if ready.engine != engine:
        raise HandshakeError(
            f"engine {engine!r} was started, but {ready.engine!r} answered",
            hint="another adapter is attached to this engine; check SCRIPTED_PLUGINS",
        )
    if not ready.hooks_fired:
        raise HandshakeError(
            "the engine answered, but none of the hooks in it has fired",
            hint="its plugin mechanism swallowed ours; its log says why",
        )


class SilenceWatch:
    """Notices an engine that takes requests while its scheduler has never said hello.

    The scheduler's first iteration with our hooks in it follows within moments; ``silence_s`` is
    how long that may take on a busy machine.
    """

    def __init__(self, launch: ServerLaunch, *, silence_s: float = _SILENCE_S) -> None:
        self._launch = launch
        self._silence_s = silence_s
        self._answered_at: float | None = None

    def check(self, *, log: Callable[[], str]) -> None:
        """Look once; raises ``HandshakeError`` when the silence has lasted too long."""
        now = time.monotonic()
        if self._answered_at is None:
            if ask_http(self._launch, timeout_s=0.25) is None:
                self._answered_at = now
            return
        if now - self._answered_at <= self._silence_s:
            return
        text = log()
        said = [line for line in text.splitlines() if "plugin" in line.lower()][-_PLUGIN_LINES:]
        found = "\n".join(said) if said else "(its log does not mention plugins)"
        raise HandshakeError(
            f"{self._launch.base_url} answers HTTP, but its scheduler never said hello: our plugin "
            f"was swallowed\n\nits log on plugins:\n{found}\n\nlog tail:\n{text[-_TAIL_CHARACTERS:]}",
            hint="the adapter has to be installed where the engine runs, and no setting of the "
            "engine may leave its plugin out",
        )


def await_http(
    launch: ServerLaunch,
    *,
    deadline: float,
    poll: Callable[[], object],
    log_tail: Callable[[], str],
    is_ours: Callable[[], bool] = lambda: True,
) -> None:
    """Ask ``launch.ready_path`` until it answers 200 and ``is_ours`` says whose answer that is.

    A port that is not open yet has no event to wait for, so this asks again every 20 ms under
    ``deadline`` (``time.monotonic``), and calls ``poll`` between two tries, which raises when a
    process of the engine has ended.
    """
    answer: str | None = "nothing"
    while time.monotonic() < deadline:
        poll()
        answer = ask_http(launch)
        if answer is None:
            if is_ours():
                return
            answer = "200 from another server on that port"
        time.sleep(_INTERVAL_S)
    raise EngineStartError(
        f"{launch.base_url}{launch.ready_path} did not answer 200 in time (last: {answer})\n\n"
        f"log tail:\n{log_tail()}"
    )

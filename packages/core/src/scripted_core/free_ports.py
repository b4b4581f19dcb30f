"""TCP ports for servers that are about to be started."""

from __future__ import annotations

import collections
import errno
import random
import socket
from pathlib import Path
from typing import Final

from scripted_core.errors import EngineStartError

_GIVEN_BY_THE_SYSTEM: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_LOWEST_GIVEN: Final = 32_768
_LOWEST: Final = 10_000
# Engines take ports a little above their own, for their ranks: those shall be below, too.
_ROOM_ABOVE: Final = 1_500
_TRIES: Final = 256
_REMEMBERED: Final = 1_024
_OFFERED: Final[collections.deque[int]] = collections.deque(maxlen=_REMEMBERED)
# Of the system: a forked process draws others than its parent.
_DRAW: Final = random.SystemRandom()


def free_port(host: str = "127.0.0.1", *, highest: int = 65_535) -> int:
    """A port of ``host`` on which nothing listens, as `free_ports` finds it."""
    return free_ports(host, 1, highest=highest)[0]


def free_ports(host: str, count: int, *, highest: int = 65_535) -> list[int]:
    """``count`` different ports of ``host``, each at most ``highest``, on which nothing listens now.

    They lie below those that the system gives to outgoing connections, and to whoever asks it for any:
    between this call and the server's own bind, which may come many seconds later, no connection of
    another program can take one. A process is not offered a port again soon. Where the system gives
    away all ports, its own offers are taken.

    Raises ``OSError`` for a host that is not this machine's, ``EngineStartError`` when too few ports are
    free.
    """
    where = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    family, kind, protocol, _, address = where
    found: list[int] = []
    kept: list[socket.socket] = []  # until all are found, so that no port is found twice
    try:
        for _ in range(_TRIES + count):
            probe = socket.socket(family, kind, protocol)
            kept.append(probe)
            try:
                probe.bind((address[0], _candidate(), *address[2:]))
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                    raise
                continue
            bound = int(probe.getsockname()[1])
            if bound <= highest:
                found.append(bound)
            if len(found) == count:
                return found
    finally:
        for probe in kept:
            probe.close()
    raise EngineStartError(
        f"no free port up to {highest} was found on {host}",
        hint="end servers that are not needed, or name a port yourself",
    )


def _candidate() -> int:
    """A port that may be free and was not offered lately; 0 where the system has to choose."""
    end = _lowest_given() - _ROOM_ABOVE
    if end - _LOWEST < 2 * _REMEMBERED:
        return 0
    while (port := _DRAW.randrange(_LOWEST, end)) in tuple(_OFFERED):
        pass
    _OFFERED.append(port)
    return port


def _lowest_given() -> int:
    """The lowest port that the system gives away by itself."""
    try:
        return int(_GIVEN_BY_THE_SYSTEM.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_LOWEST_GIVEN

"""TCP addresses as people write them: ``tcp://HOST:PORT`` or ``HOST:PORT``."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from scripted_core.errors import ConfigError

_EVERYWHERE = frozenset({"", "*", "0.0.0.0", "::"})
_HIGHEST_PORT = 65535


@dataclass(frozen=True)
class TcpAddress:
    """A host (a name or a number, without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"

    @property
    def is_everywhere(self) -> bool:
        """Whether it stands for every network that this machine is in: good for listening only."""
        return self.host in _EVERYWHERE


def parse_tcp(text: str, *, what: str, listening: bool = False) -> TcpAddress:
    """The address in ``text``, which ``what`` names in the error.

    To listen, the host may be ``*`` and the port 0, for any that is free. Raises ``ConfigError``.
    """
    scheme, found, rest = text.strip().partition("://")
    host, colon, port_text = (rest if found else text.strip()).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    least = 0 if listening else 1
    good = (
        (not found or scheme == "tcp")
        and colon
        and port_text.isascii()
        and port_text.isdigit()
        and least <= int(port_text) <= _HIGHEST_PORT
        and (listening or host not in _EVERYWHERE)
    )
    if not good:
        example = "tcp://0.0.0.0:7801" if listening else "tcp://HOST:7801"
        raise ConfigError(
            f"{what} {text!r} is no address to {'listen on' if listening else 'attach to'}",
            hint=f"write it like {example}",
        )
    return TcpAddress(host or "*", int(port_text))


def resolved(address: TcpAddress, *, listening: bool = False) -> tuple[socket.AddressFamily, str]:
    """Family and number of the host; ``OSError`` when the name means nothing here."""
    if listening and address.is_everywhere:
        return (socket.AF_INET6, "::") if address.host == "::" else (socket.AF_INET, "0.0.0.0")
    flags = socket.AI_PASSIVE if listening else 0
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError as error:
        raise OSError(f"{address.host!r} is no host name") from error
    family, _, _, _, where = found[0]
    return family, str(where[0])

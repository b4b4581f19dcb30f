"""The socket that a server answers on."""

from __future__ import annotations

import errno
import socket

from scripted_registry.errors import ConfigError


def bound(*, host: str, port: int) -> socket.socket:
    """A socket that has the port, and does not listen yet: nothing is answered before all is ready.

    Raises `ConfigError` for a host that is not this machine's, and for a port that is taken.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise cannot_serve(error, host=host, port=port) from error
    return listener


def cannot_serve(error: Exception, *, host: str, port: int) -> ConfigError:
    """What a user is told when `error` keeps the server from its port."""
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        hint = "choose another port, or end the server that has it"
    elif isinstance(error, OSError) and error.errno == errno.EACCES:
        hint = "choose a port from 1024 on"
    elif isinstance(error, OverflowError):
        hint = "choose a port from 0 to 65535"
    else:
        hint = "choose a host that is an address of this machine, such as 127.0.0.1"
    return ConfigError(f"cannot serve on {host} port {port}: {error}", hint=hint)

"""``python -m scripted_core.gate DRIVER_PID FD``: the gate's process.

It says on ``FD``, as JSON, where it listens or why it cannot, and ends when the engine has.
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from scripted_core.errors import ScriptedError
from scripted_core.gate.relay import Gate
from scripted_core.gate.start import Listening, NotListening
from scripted_core.gate.watch import LocalEngine
from scripted_core.logs import ENV_LOG_LEVEL
from scripted_core.wire.address import address_from_env, listen_settings
from scripted_core.wire.keys import read_engine_key
from scripted_core.wire.listener import Listener
from scripted_core.wire.transport import TestSideChannel

_ENGINE_END_S = 60.0


def main() -> None:
    """Listen, say so, and pass messages on until the engine has ended."""
    driver_pid, fd = int(sys.argv[1]), int(sys.argv[2])
    # What ends the engine reaches this process too; it goes after the engine, having told of it.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault(ENV_LOG_LEVEL, "info")
    address = address_from_env(os.environ)
    assert address is not None, "started by a process of a session"
    try:
        where, key_file = listen_settings(os.environ)
        listener = Listener(
            where,
            key=read_engine_key(key_file),
            allowed=lambda: read_engine_key(key_file).clients,
        )
    except ScriptedError as error:
        _say(fd, NotListening(error.code, error.message, error.hint or ""))
        sys.exit(1)
    engine = TestSideChannel(address)
    watch = LocalEngine(address, driver_pid=driver_pid)
    _say(fd, Listening(str(listener.address)))
    try:
        Gate(engine=engine, watch=watch, clients=listener).serve()
    finally:
        listener.close()
        engine.close()
        watch.await_end(_ENGINE_END_S)
        address.remove()


def _say(fd: int, what: Listening | NotListening) -> None:
    with open(fd, "wb") as pipe:
        pipe.write(msgspec.json.encode(what))


if __name__ == "__main__":
    main()

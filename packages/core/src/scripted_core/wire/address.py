"""Where the two sides meet: a fresh private directory with Unix-domain sockets."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path

import msgspec

from scripted_core.errors import ConfigError, TransportError
from scripted_core.wire.keys import read_engine_key
from scripted_core.wire.tcp import TcpAddress, parse_tcp

ENV_WIRE = "SCRIPTED_WIRE"
"""Directory of the session; the engine side does nothing at all without it."""
ENV_TOKEN = "SCRIPTED_TOKEN"
ENV_ENGINE = "SCRIPTED_ENGINE"
"""Name of the engine that the session started, so that another engine's adapter stays out."""

ENV_MEMBER = "SCRIPTED_MEMBER"
"""Which server of an engine that consists of several this is, such as ``prefill``."""

ENV_LISTEN = "SCRIPTED_LISTEN"
"""``tcp://HOST:PORT``: an engine that somebody else starts lets test clients in there."""
ENV_KEY_FILE = "SCRIPTED_KEY_FILE"
"""The engine's key file, without which it does not listen."""

STACKS_SIGNAL = signal.SIGRTMIN + 5
"""Asks an engine process to write every thread's stack into the session's directory."""

_PROCESS = "process-"
_MAX_SOCKET_PATH_BYTES = 100


class SessionAddress(msgspec.Struct, frozen=True):
    """A session's directory and token, and the paths below it."""

    directory: str
    token: str

    @property
    def wire(self) -> str:
        """Endpoint of the PAIR socket: the driver rank and the test side."""
        return f"ipc://{self.directory}/wire"

    @property
    def out_of_band(self) -> str:
        """Endpoint of the PUSH/PULL socket on which any rank reports a broken event loop."""
        return f"ipc://{self.directory}/oob"

    @property
    def steps(self) -> str:
        """Endpoint of the PUSH/PULL socket for what somebody watches: the only one that may lose."""
        return f"ipc://{self.directory}/steps"

    @property
    def ranks(self) -> str:
        """Endpoint of the PUSH/PULL socket on which the other ranks report to the driver rank."""
        return f"ipc://{self.directory}/ranks"

    @property
    def partner(self) -> str:
        """Endpoint of the PAIR socket between the two schedulers of a prefill/decode pair."""
        return f"ipc://{self.directory}/pd"

    @property
    def progress(self) -> Path:
        """The progress board, see :mod:`scripted_core.wire.progress`."""
        return Path(self.directory) / "progress"

    @property
    def log(self) -> Path:
        """What the engine's processes print."""
        return Path(self.directory) / "engine.log"

    def stacks(self, pid: int) -> Path:
        """Where the process ``pid`` writes every thread's stack when asked to."""
        return Path(self.directory) / f"stacks-{pid}.txt"

    def announce(self, role: str) -> None:
        """Engine side: this process is one whose end matters to the session."""
        name = role_of_process(role, os.environ)
        (Path(self.directory) / f"{_PROCESS}{os.getpid()}").write_text(name)

    def announced(self) -> dict[int, str]:
        """Roles by pid of all processes that have announced themselves."""
        found = {}
        for entry in Path(self.directory).glob(f"{_PROCESS}*"):
            found[int(entry.name.removeprefix(_PROCESS))] = entry.read_text() or "engine"
        return found

    def env(self, *, engine: str) -> dict[str, str]:
        """What the engine's processes get in their environment."""
        return {
            ENV_WIRE: self.directory,
            ENV_TOKEN: self.token,
            ENV_ENGINE: engine,
            ENV_MEMBER: "",
            ENV_LISTEN: "",  # somebody's own servers listen there, not those of a session
        }

    def remove(self) -> None:
        """Delete the directory and all in it."""
        shutil.rmtree(self.directory, ignore_errors=True)


def create_address() -> SessionAddress:
    """A fresh directory that only this user can enter, on a path short enough for a socket."""
    for parent in (None, "/tmp", "/dev/shm"):
        if parent is not None and not os.access(parent, os.W_OK):
            continue
        directory = tempfile.mkdtemp(prefix="scripted-", dir=parent)
        if len(os.fsencode(f"{directory}/steps")) < _MAX_SOCKET_PATH_BYTES:
            return SessionAddress(directory=directory, token=secrets.token_hex(16))
        os.rmdir(directory)
    raise TransportError(
        "no temporary directory has a path short enough for a Unix-domain socket",
        hint="set TMPDIR to a short path such as /tmp",
    )


def address_from_env(environ: Mapping[str, str]) -> SessionAddress | None:
    """The session that this process was started for; ``None`` without one."""
    directory = environ.get(ENV_WIRE)
    if not directory:
        return None
    token = environ.get(ENV_TOKEN)
    if not token:
        raise ConfigError(
            f"{ENV_WIRE} is set but {ENV_TOKEN} is not",
            hint="both come from the session that starts the engine; unset both otherwise",
        )
    return SessionAddress(directory=directory, token=token)


def member_from_env(environ: Mapping[str, str]) -> str | None:
    """Which server of several this process belongs to; ``None`` in an engine that is one server."""
    return environ.get(ENV_MEMBER) or None


def role_of_process(role: str, environ: Mapping[str, str]) -> str:
    """What a process is called where its end is told of: its role, behind that of its server."""
    member = member_from_env(environ)
    if member is None:
        return role
    return f"{member} {'server' if role == 'main' else role}"


def open_address(environ: MutableMapping[str, str], *, engine: str) -> SessionAddress | None:
    """For the first process of an engine: the session that it is in, ``None`` outside any.

    An engine that is told to listen (``SCRIPTED_LISTEN``) has one of its own, which its other
    processes find in ``environ``. Raises ``ConfigError`` for a setting that cannot be used.
    """
    if environ.get(ENV_WIRE) or not environ.get(ENV_LISTEN):
        return address_from_env(environ)
    if environ.get(ENV_ENGINE) not in (None, "", engine):
        return None
    listen_settings(environ)
    address = create_address()
    environ.update({**address.env(engine=engine), ENV_LISTEN: environ[ENV_LISTEN]})
    return address


def listen_settings(environ: Mapping[str, str]) -> tuple[TcpAddress, Path]:
    """Where to listen and the key file; ``ConfigError`` for what cannot be used."""
    address = parse_tcp(environ[ENV_LISTEN], what=ENV_LISTEN, listening=True)
    key_file = environ.get(ENV_KEY_FILE)
    if not key_file:
        raise ConfigError(
            f"{ENV_LISTEN} is set but {ENV_KEY_FILE} is not: there is no way in without keys",
            hint=f"make keys with: scripted keys DIR; then {ENV_KEY_FILE}=DIR/engine.key",
        )
    read_engine_key(Path(key_file))
    return address, Path(key_file).absolute()

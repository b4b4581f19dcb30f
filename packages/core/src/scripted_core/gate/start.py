"""Starting the gate from the engine's driver rank."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping

import msgspec

from scripted_core.errors import EngineStartError, error_from_code
from scripted_core.wire.address import ENV_LISTEN, SessionAddress

_START_TIMEOUT_S = 30.0
_gates: list[subprocess.Popen[bytes]] = []
"""Kept: an object of a process that runs complains when it is collected."""


class Listening(msgspec.Struct, frozen=True, tag=True):
    """Where the gate listens."""

    address: str


class NotListening(msgspec.Struct, frozen=True, tag=True):
    """Why it does not: an error of our tree."""

    code: str
    message: str
    hint: str


def start_gate(address: SessionAddress, *, environ: Mapping[str, str]) -> str | None:
    """Start the gate and return where it listens; ``None`` when the engine is not to listen.

    Raises what keeps it from listening, such as ``EngineStartError`` for a port that is taken.
    """
    if not environ.get(ENV_LISTEN):
        return None
    reading, writing = os.pipe()
    try:
        # -P: the current folder is the user's, and no place to import modules from.
        gate = subprocess.Popen(
            [sys.executable, "-P", "-m", "scripted_core.gate", str(os.getpid()), str(writing)],
            stdin=subprocess.DEVNULL,
            pass_fds=(writing,),
            env=dict(environ),
        )
        _gates.append(gate)
    finally:
        os.close(writing)
    with open(reading, "rb") as pipe:
        if not select.select([pipe], [], [], _START_TIMEOUT_S)[0]:
            raise EngineStartError(
                f"the gate for test clients was not there in {_START_TIMEOUT_S} s"
            )
        said = pipe.read()
    try:
        answer = msgspec.json.decode(said, type=Listening | NotListening)
    except msgspec.DecodeError as error:
        raise EngineStartError(
            "the gate for test clients ended before it listened", hint="its output says why"
        ) from error
    if isinstance(answer, NotListening):
        raise error_from_code(answer.code, answer.message, hint=answer.hint or None)
    # For whoever started the engine: with port 0 nothing else says it.
    print(f"scripted: test clients attach at {answer.address}", file=sys.stderr, flush=True)
    return answer.address

"""The two harnesses that are compared, as sides that run one block of measurements when told to.

Each side is held still while the other is measured, see ``bench.servers``.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

from scripted_core.errors import ScriptedError
from scripted_core.sessions import ScriptedHttpServer
from scripted_sglang.launch import server_env

from bench.blocks import Block, measure_block
from bench.peer import SHUTDOWN, Harness
from bench.servers import family_cpu_s, hold_still, kill_group, let_go_on

_ANSWER_TIMEOUT_S: Final = 240.0
_START_TIMEOUT_S: Final = 600.0
_LOG_LINES: Final = 20
_ROOT: Final = Path(__file__).resolve().parent.parent


class SideFailed(RuntimeError):
    """A harness did not do what it was told to; the message says how that was seen."""


class Side(Protocol):
    """A harness with a running server."""

    def measure(self, block: Block) -> list[float]:
        """The seconds that a block has timed; ``SideFailed`` where the harness cannot do it."""
        ...

    def shutdown(self) -> float:
        """End the server; the seconds that it took."""
        ...


class Ours:
    """A session of this project."""

    def __init__(self, kwargs: Mapping[str, Any]) -> None:
        self._server = ScriptedHttpServer.start(backend="sglang", **kwargs)
        self._ended = False
        hold_still(self._server.main_pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not self._ended:
            self.shutdown()

    def measure(self, block: Block, *, checked: bool = False) -> list[float]:
        """The seconds of a block; ``checked`` leaves the invariants on."""
        let_go_on(self._server.main_pid)
        try:
            return measure_block(
                block,
                lambda script, args: self._server.execute_script(
                    script, args=args, check_invariants=checked
                ),
            )
        except (ScriptedError, AssertionError) as error:
            raise SideFailed(f"this project's session, {block.value}: {error}") from error
        finally:
            hold_still(self._server.main_pid)

    def shutdown(self) -> float:
        """End it, at rest."""
        self._ended = True
        let_go_on(self._server.main_pid)
        start = time.perf_counter()
        self._server.shutdown()
        return time.perf_counter() - start


class Peer:
    """A harness in a process of its own: SGLang's, or ours where its process is measured as well.

    ``start_s`` is the time from the start of that process until the server can be told something, and
    ``start_cpu_s`` the processor time that all processes have spent until then.
    """

    def __init__(
        self, kwargs: Mapping[str, Any], *, log: Path, harness: Harness = Harness.SGLANG
    ) -> None:
        ranks = int(kwargs.get("tp_size", 1)) * int(kwargs.get("pp_size", 1))
        env = dict(os.environ)
        if harness is Harness.SGLANG:
            env |= server_env(cpu=True, ranks=ranks)
        self._harness = harness
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), env.get("PYTHONPATH")]))
        self._log = log
        start = time.perf_counter()
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "bench.peer", harness, json.dumps(dict(kwargs))],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                start_new_session=True,
                bufsize=0,
            )
        try:
            self._answer("its start", timeout_s=_START_TIMEOUT_S)
            self.start_s = time.perf_counter() - start
            self.start_cpu_s = family_cpu_s(self._process.pid)
        except BaseException:
            self._end()
            raise
        hold_still(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._end()

    def measure(self, block: Block) -> list[float]:
        """The seconds of a block."""
        let_go_on(self._process.pid)
        try:
            return self._ask(block.value)
        finally:
            hold_still(self._process.pid)

    def shutdown(self) -> float:
        """End it as it ends itself; on a CPU that takes a minute."""
        let_go_on(self._process.pid)
        (seconds,) = self._ask(SHUTDOWN)
        return seconds

    def _ask(self, what: str) -> list[float]:
        assert self._process.stdin is not None, "a pipe was asked for"
        try:
            self._process.stdin.write(f"{what}\n".encode())
        except OSError as error:
            raise self._failure(what, str(error)) from error
        return self._answer(what)

    def _answer(self, what: str, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> list[float]:
        assert self._process.stdout is not None, "a pipe was asked for"
        said, end = b"", time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise self._failure(what, f"no answer after {timeout_s:g} s")
                more = os.read(self._process.stdout.fileno(), 65536)
                if not more:
                    raise self._failure(what, "it ended")
                said += more
        answer = json.loads(said)
        if answer["failed"] is not None:
            raise SideFailed(f"{self._named}, {what}: {answer['failed']}")
        seconds: list[float] = answer["seconds"]
        return seconds

    def _failure(self, what: str, how: str) -> SideFailed:
        tail = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return SideFailed("\n".join([f"{self._named}, {what}: {how}", *tail]))

    @property
    def _named(self) -> str:
        match self._harness:
            case Harness.OURS:
                return "this project's session"
            case Harness.SGLANG:
                return "SGLang's own harness"

    def _end(self) -> None:
        kill_group(self._process.pid)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

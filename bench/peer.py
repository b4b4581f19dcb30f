"""A harness on the same scripts, SGLang's own or ours: a process of its own that is told what to do.

It runs as ``python -m bench.peer HARNESS KWARGS``, for SGLang's with the environment of an engine
process, since that harness starts the server from the process that it is imported in. Each line at its
standard input names a block of measurements, or says ``shutdown``; each is answered with a line of JSON:
seconds, or what failed. The first answer, with no seconds, says that the server is there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from enum import StrEnum
from typing import Any, Final

from bench.blocks import Block, measure_block

SHUTDOWN: Final = "shutdown"


class Harness(StrEnum):
    """Whose harness starts the server."""

    OURS = "ours"
    SGLANG = "sglang"


def main() -> None:
    """Do what is asked until nobody asks any more, and leave no server behind."""
    try:
        _serve()
    except Exception:  # nobody reads an answer any more, or the server did not start
        traceback.print_exc()
    finally:
        # This process leads a group of its own, in which the server's processes are.
        os.killpg(os.getpid(), signal.SIGKILL)


def _serve() -> None:
    """Start the harness with the given engine arguments, and answer each line."""
    harness, kwargs = Harness(sys.argv[1]), json.loads(sys.argv[2])
    # What the server prints to standard output is not an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(seconds: list[float], failed: str | None = None) -> None:
        answers.write(json.dumps({"seconds": seconds, "failed": failed}) + "\n")
        answers.flush()

    server = _start(harness, kwargs)
    answer([])
    for line in sys.stdin:
        if line.strip() == SHUTDOWN:
            start = time.perf_counter()
            server.shutdown()
            answer([time.perf_counter() - start])
            continue
        try:
            answer(
                measure_block(
                    Block(line.strip()),
                    lambda script, args: server.execute_script(script, args=args),
                )
            )
        except Exception:  # whatever its scripts raise is an answer
            answer([], traceback.format_exc(limit=-3))


def _start(harness: Harness, kwargs: dict[str, Any]) -> Any:
    """The server; each harness is imported only where it is the one."""
    match harness:
        case Harness.OURS:
            from scripted_core.sessions import ScriptedHttpServer

            return ScriptedHttpServer.start(backend="sglang", **kwargs)
        case Harness.SGLANG:
            from sglang.test.scripted_runtime.http_server import (
                ScriptedHttpServer as SGLangsHttpServer,
            )

            return SGLangsHttpServer.start(**kwargs)


if __name__ == "__main__":
    main()

"""What is timed on a running server, in blocks that are short enough to be taken in turn.

The same blocks run in a session of ours and in SGLang's own harness.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bench import scripts

Execute = Callable[[Callable[..., Any], tuple[Any, ...]], object]
"""Runs a script with arguments to its end."""

ARRIVALS: Final = 12
RESETS: Final = 8


class Block(StrEnum):
    """One measurement; the value is how its row is called."""

    ARRIVAL = "start_req to arrival"
    RESET = "reset and no-op script"
    DECODE = "decode per yield"
    CHUNKS = "chunked prefill per yield"
    RETRACT = "retract and resume"
    EXHAUST = "exhaust, take turns, release"


_SCRIPTS: Final[dict[Block, Callable[..., Any]]] = {
    Block.ARRIVAL: scripts.arrivals,
    Block.DECODE: scripts.decode,
    Block.CHUNKS: scripts.chunks,
    Block.RETRACT: scripts.retract,
    Block.EXHAUST: scripts.exhaust,
}


def measure_block(block: Block, execute: Execute) -> list[float]:
    """The seconds of everything that a block times; raises what ``execute`` raises."""
    if block is Block.RESET:
        seconds = []
        execute(scripts.noop, ())
        for _ in range(RESETS):
            start = time.perf_counter()
            execute(scripts.noop, ())
            seconds.append(time.perf_counter() - start)
        return seconds
    return seconds_of(execute, _SCRIPTS[block], *([ARRIVALS] if block is Block.ARRIVAL else []))


def seconds_of(execute: Execute, script: Callable[..., Any], *args: Any) -> list[float]:
    """What a script has written about itself."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        execute(script, (str(file), *args))
        seconds: list[float] = json.loads(file.read_text(encoding="utf-8"))
    return seconds

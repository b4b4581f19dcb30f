"""The scripts of the benchmark. They run unchanged on every engine, and in SGLang's own harness.

The workload: 8 decoding requests whose context is 256 tokens on average, beside a prefix tree of 50
nodes that earlier requests have left. Every prompt is one token repeated, another for each request,
so that no two share a node. Times are taken inside the script and written to a file, which is the
one way out that every harness has. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, Final

DECODING: Final = 8
TREE_NODES: Final = 50
TREE_PROMPT_LEN: Final = 64
"""Tokens in the prompt behind one tree node; 50 of them and 8 contexts fit the pool."""
PROMPT_LEN: Final = 192
MEASURED_STEPS: Final = 128
"""Decode steps that are timed: the context grows from 192 to 320 tokens, 256 on average."""
ENGINE_KWARGS: Final[dict[str, Any]] = {"max_total_tokens": 8192, "max_running_requests": DECODING}
CHUNK_TOKENS: Final = 64
"""Tokens of one prefill chunk, where the engine is started with chunked prefill."""
CHUNKS: Final = 12
"""Chunks of the prompt whose prefill is timed."""
RETRACTIONS: Final = 4
"""Times that a script takes all running requests back and lets them go on."""
EXHAUSTIONS: Final = 1
"""Times that a script exhausts the pool under requests that then take turns.

Once: what is evictable counts as left here and not in SGLang's harness, so the tree has to be empty."""
SCARCE_PAGES: Final = 256
"""Pages that an exhausted pool has left: enough for one request of the workload, not for two."""

_FIRST_TOKEN = 10
_STEPS_TO_START = 400
_SETTLING_STEPS = 4
_TAKING_TURNS = 4
_TURN_TOKENS = 8


def noop(t: Any) -> Iterator[None]:
    """A script that ends at once: what is left is the reset and the way there and back."""
    yield from ()


def arrivals(t: Any, file: str, requests: int) -> Iterator[None]:
    """Write the seconds that each ``start_req`` took, one request after the other."""
    seconds = []
    for number in range(requests):
        start = time.perf_counter()
        handle = t.start_req(
            prompt_len=PROMPT_LEN,
            prompt_token=_FIRST_TOKEN + number,
            max_new_tokens=1,
            ignore_eos=True,
        )
        seconds.append(time.perf_counter() - start)
        yield from _until_finished([handle])
    _write(file, seconds)


def decode(t: Any, file: str) -> Iterator[None]:
    """Write the seconds of each ``yield`` of the workload."""
    yield from start_workload(t)
    seconds = []
    before = time.perf_counter()
    for _ in range(MEASURED_STEPS):
        yield
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
    _write(file, seconds)


def chunks(t: Any, file: str) -> Iterator[None]:
    """Write the seconds of each ``yield`` in which a long prompt is prefilled chunk by chunk."""
    handle = t.start_req(
        prompt_len=CHUNKS * CHUNK_TOKENS,
        prompt_token=_FIRST_TOKEN,
        max_new_tokens=1,
        ignore_eos=True,
    )
    seconds = []
    before = time.perf_counter()
    for _ in range(_STEPS_TO_START):
        yield
        now = time.perf_counter()
        seconds.append(now - before)
        before = now
        if handle.finished:
            break
    else:
        raise AssertionError(f"the prompt is not prefilled after {_STEPS_TO_START} steps")
    if len(seconds) < CHUNKS:
        raise AssertionError(f"{CHUNKS} chunks were prefilled in {len(seconds)} steps")
    _write(file, seconds)


def retract(t: Any, file: str) -> Iterator[None]:
    """Write the seconds in which all running requests are taken back and each has gone on."""
    handles = yield from start_workload(t)
    seconds = []
    for _ in range(RETRACTIONS):
        start = time.perf_counter()
        t.pause_generation(mode="retract")
        yield
        before = [len(handle.req.output_ids) for handle in handles]
        t.continue_generation()
        for _ in range(_STEPS_TO_START):
            yield
            now = [len(handle.req.output_ids) for handle in handles]
            if all(new > old for new, old in zip(now, before, strict=True)):
                break
        else:
            raise AssertionError(f"retracted, and not resumed after {_STEPS_TO_START} steps")
        seconds.append(time.perf_counter() - start)
    _write(file, seconds)


def exhaust(t: Any, file: str) -> Iterator[None]:
    """Write the seconds in which the pool is exhausted and requests end that have to take turns."""
    # SGLang's harness gives back what is held between scripts, and has no public call for it.
    release: Callable[[], object] = getattr(t, "release_exhausted", None) or (
        t._release_exhausted_pools
    )
    seconds = []
    for turn in range(EXHAUSTIONS):
        start = time.perf_counter()
        # Requests first: SGLang takes what is held for a leak when it is idle, and its own harness does
        # not tell it better.
        handles = [
            t.start_req(
                prompt_len=PROMPT_LEN,
                prompt_token=_FIRST_TOKEN + turn * _TAKING_TURNS + number,
                max_new_tokens=_TURN_TOKENS,
                ignore_eos=True,
            )
            for number in range(_TAKING_TURNS)
        ]
        t.exhaust_kv(leave_pages=SCARCE_PAGES)
        yield
        free = t.engine_stats()["kv_pool_free"]
        if free > SCARCE_PAGES:
            raise AssertionError(f"the pool is exhausted, and {free} pages are free")
        yield from _until_finished(handles)
        release()
        yield
        seconds.append(time.perf_counter() - start)
    _write(file, seconds)


def start_workload(t: Any) -> Generator[None, None, list[Any]]:
    """Bring the workload about; at the end every request decodes. Returns their handles."""
    for node in range(0, TREE_NODES, DECODING):
        tokens = range(node, min(node + DECODING, TREE_NODES))
        yield from _until_finished(
            [
                t.start_req(
                    prompt_len=TREE_PROMPT_LEN,
                    prompt_token=_FIRST_TOKEN + token,
                    max_new_tokens=1,
                    ignore_eos=True,
                )
                for token in tokens
            ]
        )
    handles = [
        t.start_req(
            prompt_len=PROMPT_LEN,
            prompt_token=_FIRST_TOKEN + TREE_NODES + number,
            max_new_tokens=MEASURED_STEPS + 64,
            ignore_eos=True,
        )
        for number in range(DECODING)
    ]
    for _ in range(_STEPS_TO_START):
        yield
        requests = [handle.req for handle in handles]
        if all(req is not None and len(req.output_ids) > 0 for req in requests):
            break
    else:
        raise AssertionError(f"the workload does not decode after {_STEPS_TO_START} steps")
    for _ in range(_SETTLING_STEPS):
        yield
    return handles


def _until_finished(handles: list[Any]) -> Iterator[None]:
    for _ in range(_STEPS_TO_START):
        yield
        if all(handle.finished for handle in handles):
            return
    raise AssertionError(f"{handles} have not finished after {_STEPS_TO_START} steps")


def _write(file: str, seconds: list[float]) -> None:
    Path(file).write_text(json.dumps(seconds), encoding="utf-8")

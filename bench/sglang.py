"""SGLang on a CPU: our session beside SGLang's own scripted harness, and beside no harness at all.

Both servers of a comparison are up with the same engine arguments, model and scripts, and are measured
in turn, block by block, while the other is held still. So a ratio is the median of the ratios of
neighbouring blocks, and what else the machine does is in both of their sides.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from scripted_sglang.launch import default_kwargs, held_for_long
from scripted_sglang.tiny_model import write_tiny_model

from bench import scripts
from bench.blocks import Block
from bench.free_running import Load, ServerFailed, both_servers, compare_free_running
from bench.parts import Part
from bench.peer import Harness
from bench.results import Result, at_least, at_most, no_result, summarize, with_interval
from bench.sides import Ours, Peer, SideFailed

ROUNDS: Final = 8
PIPELINE_ROUNDS: Final = 6
START_PAIRS: Final = 3
FREE_PAIRS: Final = 120
FREE_LOAD: Final = Load(requests=8, new_tokens=192)
_TARGETS: Final = {Block.ARRIVAL: 0.5, Block.RESET: 0.25, Block.DECODE: 1.0}

Report = Callable[[str], None]


@dataclass
class Rounds:
    """What was measured on both sides, one list of seconds for each round."""

    ours: dict[str, list[list[float]]] = field(default_factory=dict)
    theirs: dict[str, list[list[float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    starts: list[tuple[float, float]] = field(default_factory=list)
    starts_cpu: list[tuple[float, float]] = field(default_factory=list)
    shutdowns: list[float] = field(default_factory=list)
    their_shutdown_s: float | None = None


def measure(
    parts: Sequence[Part], *, report: Report, wanted: Callable[[str], bool], long: bool
) -> list[Result]:
    """The rows of the SGLang table that are ``wanted`` by name; ``report`` is told what is going on.

    A side that fails ends its part, whose rows then say so. ``long`` adds what takes minutes and is over
    in an instant elsewhere: the shutdown of SGLang's harness, and its exhausted pipeline.
    """
    rows: list[Result] = []
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="scripted-bench-") as name:
            folder = Path(name)
            load, _, _ = os.getloadavg()
            report(f"SGLang: {part.value}, load average {load:.1f}")
            try:
                match part:
                    case Part.ONE_DEVICE:
                        rows += _one_device(folder, report=report, long=long)
                    case Part.PIPELINE:
                        rows += _pipeline(folder, report=report, long=long)
                    case Part.FREE_RUNNING:
                        rows += _free_running(folder, report=report)
            except SideFailed as failure:
                rows.append(no_result(f"sglang: {part.value}", str(failure)))
    return [row for row in rows if wanted(row.name)]


# -- beside SGLang's harness ---------------------------------------------------------------------


def _one_device(folder: Path, *, report: Report, long: bool) -> list[Result]:
    found = Rounds()
    kwargs = _kwargs(folder)
    _compare(found, kwargs, folder, rounds=ROUNDS, report=report, skipped={}, long=long)
    # More starts, for one that is not always the second; what was measured outlives a failed one.
    for number in range(START_PAIRS):
        report(f"SGLang: starts once more, pair {number + 1} of {START_PAIRS}")
        try:
            _start_both(found, kwargs, folder, ours_first=number % 2 == 1)
        except SideFailed as failure:
            report(str(failure))
    return [*_start_rows(found), *_rows(found, "")]


def _start_both(
    found: Rounds, kwargs: Mapping[str, Any], folder: Path, *, ours_first: bool
) -> None:
    """Start one after the other, each from a fresh process: what somebody waits for who runs a test.

    SGLang's harness is imported with SGLang itself, ours without; the time of that is in both.
    """
    seconds: dict[Harness, tuple[float, float]] = {}
    order = (Harness.OURS, Harness.SGLANG) if ours_first else (Harness.SGLANG, Harness.OURS)
    for harness in order:
        with Peer(kwargs, log=folder / "start.log", harness=harness) as side:
            seconds[harness] = side.start_s, side.start_cpu_s
            if harness is Harness.OURS:
                found.shutdowns.append(side.shutdown())
    ours, theirs = seconds[Harness.OURS], seconds[Harness.SGLANG]
    found.starts.append((ours[0], theirs[0]))
    found.starts_cpu.append((ours[1], theirs[1]))


def _pipeline(folder: Path, *, report: Report, long: bool) -> list[Result]:
    found = Rounds()
    kwargs = {**_kwargs(folder), "pp_size": 2, **held_for_long()}
    skipped = {} if long else {Block.EXHAUST: "takes two minutes to fail; --long tries it"}
    _compare(
        found, kwargs, folder, rounds=PIPELINE_ROUNDS, report=report, skipped=skipped, long=long
    )
    return _rows(found, ", pp=2")


def _compare(
    found: Rounds,
    kwargs: Mapping[str, Any],
    folder: Path,
    *,
    rounds: int,
    report: Report,
    skipped: Mapping[Block, str],
    long: bool,
) -> None:
    report("SGLang: starting this project's session, then SGLang's own harness")
    with Ours(kwargs) as ours, Peer(kwargs, log=folder / "peer.log") as peer:
        for block in Block:
            report(f"SGLang: {block.value}")
            for number in range(-1, rounds):
                order = (_mine, _other) if number % 2 == 0 else (_other, _mine)
                for side in order:
                    side(found, ours, peer, block, skipped)
                if number < 0:  # everything has run once
                    _forget(found, block)
        if long and block_worked(found, Block.EXHAUST):
            report("SGLang: shutdown of SGLang's own harness")
            found.their_shutdown_s = peer.shutdown()
        found.shutdowns.append(ours.shutdown())


def _mine(found: Rounds, ours: Ours, peer: Peer, block: Block, _: Mapping[Block, str]) -> None:
    if block.value in found.failed:
        return
    found.ours.setdefault(block.value, []).append(ours.measure(block))
    if block is Block.DECODE:
        checked = ours.measure(block, checked=True)
        found.ours.setdefault(_checked(block), []).append(checked)


def _other(
    found: Rounds, ours: Ours, peer: Peer, block: Block, skipped: Mapping[Block, str]
) -> None:
    if block in skipped:
        found.failed.setdefault(f"theirs: {block.value}", skipped[block])
    if f"theirs: {block.value}" in found.failed:
        return
    try:
        found.theirs.setdefault(block.value, []).append(peer.measure(block))
    except SideFailed as failure:
        found.theirs.pop(block.value)
        found.failed[f"theirs: {block.value}"] = str(failure)


def block_worked(found: Rounds, block: Block) -> bool:
    """Whether SGLang's harness has come through a block, and so can be shut down."""
    return f"theirs: {block.value}" not in found.failed


def _forget(found: Rounds, block: Block) -> None:
    for side in (found.ours, found.theirs):
        for name in (block.value, _checked(block)):
            if name in side:
                side[name].clear()


def _checked(block: Block) -> str:
    return f"{block.value}, invariants"


def _start_rows(found: Rounds) -> list[Result]:
    rows: list[Result] = []
    for name, pairs, target in (
        ("server start", found.starts, at_most(1.0)),
        ("processor time of a start", found.starts_cpu, None),
    ):
        if not pairs:
            rows.append(no_result(f"sglang: {name}", "no pair of starts came through"))
            continue
        rows += [
            summarize(f"sglang: {name}", [ours for ours, _ in pairs], "s", None),
            summarize(f"sglang's harness: {name}", [theirs for _, theirs in pairs], "s", None),
            with_interval(
                f"sglang: {name}, ours to theirs",
                [ours / theirs for ours, theirs in pairs],
                "ratio",
                target,
            ),
        ]
    return rows


def _rows(found: Rounds, suffix: str) -> list[Result]:
    ours: list[Result] = []
    theirs: list[Result] = []
    ratios: list[Result] = []
    for name, rounds in found.ours.items():
        ours.append(_row(f"sglang: {name}{suffix}", rounds))
        base = name.removesuffix(", invariants")
        peers = found.theirs.get(base)
        ratio = f"sglang: {name}, ours to theirs{suffix}"
        if not peers:
            why = found.failed[f"theirs: {base}"]
            theirs.append(no_result(f"sglang's harness: {base}{suffix}", why))
            continue
        if name == base:
            theirs.append(_row(f"sglang's harness: {name}{suffix}", peers))
        target = _TARGETS.get(Block(base)) if name == base and not suffix else None
        pairs = [
            statistics.median(one) / statistics.median(two)
            for one, two in zip(rounds, peers, strict=True)
        ]
        ratios.append(
            with_interval(ratio, pairs, "ratio", None if target is None else at_most(target))
        )
    ours.append(summarize(f"sglang: shutdown{suffix}", found.shutdowns, "s", at_most(5)))
    if found.their_shutdown_s is not None:
        name = f"sglang's harness: shutdown{suffix}"
        theirs.append(summarize(name, [found.their_shutdown_s], "s", None))
    return [*ours, *theirs, *ratios]


def _row(name: str, rounds: Sequence[Sequence[float]]) -> Result:
    return summarize(name, [one * 1e3 for seconds in rounds for one in seconds], "ms", None)


# -- beside no harness ---------------------------------------------------------------------------

FREE_NAMES: Final = (
    "sglang: throughput without a script, with the hook",
    "sglang: throughput without the hook",
    "sglang: throughput, with the hook to without",
    "sglang: scheduler time a step, with the hook to without",
)


def _free_running(folder: Path, *, report: Report) -> list[Result]:
    hooked, plain, throughput, cpu = FREE_NAMES
    report("SGLang: starting a plain server beside one with the hook attached")
    kwargs = _kwargs(folder)
    try:
        with both_servers(kwargs, folder=folder / "logs") as (without, with_hook):
            report(f"SGLang: {FREE_PAIRS} loads on each, in turn")
            found = compare_free_running(without, with_hook, load=FREE_LOAD, pairs=FREE_PAIRS)
    except ServerFailed as failure:
        report(str(failure))
        return [no_result(name, str(failure)) for name in FREE_NAMES]
    rates = [[one.tokens_per_s for one in side] for side in (found.hooked, found.plain)]
    return [
        summarize(hooked, rates[0], "tokens/s", None),
        summarize(plain, rates[1], "tokens/s", None),
        with_interval(throughput, found.throughput_ratios(), "ratio", at_least(0.99)),
        with_interval(cpu, found.cpu_ratios(), "ratio", None),
    ]


def _kwargs(folder: Path) -> dict[str, Any]:
    model = write_tiny_model(folder / "model")
    return {
        **default_kwargs(cpu=True),
        **scripts.ENGINE_KWARGS,
        "chunked_prefill_size": scripts.CHUNK_TOKENS,
        "model_path": str(model),
    }

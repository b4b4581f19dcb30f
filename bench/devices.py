"""The reference engine's topologies over several devices: ``python -m bench.devices --device cuda``.

Each topology answers the same prompts as one CPU does and as one such device does, without and with a
prefix that is cached, and then the workload of the benchmark is timed on it. Prints a table in Markdown;
``--json FILE`` also writes it as JSON. ``--device cpu`` rehearses it without a GPU. The exit status is 1
if a token differs, or on one kind of device a log probability.

A pipeline has a stage on each GPU, in one process and with a process for each; of a pair the prefill
engine has the first GPU, the decode engine the second. With four GPUs there is also a pipeline of four
processes. Only torch, safetensors and this project's packages are needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from scripted_core import InProcessSession
from scripted_core.errors import ScriptedError
from scripted_core.sessions import ScriptedHttpServer

from bench import scripts

CPU: Final = "cpu"
CUDA: Final = "cuda"
PROMPT_LENS: Final = (20, 100, 257, 257)
SHARED_LEN: Final = 150
NEW_TOKENS: Final = 32
WINDOW_TOKENS: Final = 32
ONE_DEVICE: Final = "one device"
LOGPROB_TOLERANCE: Final = 1e-3
"""Between a CPU and a GPU, whose sums are not taken in the same order; on one kind of device it is 0."""
_STEPS: Final = 600

_BASE: Final[dict[str, Any]] = {
    "model_path": "tiny",
    "max_total_tokens": 8192,
    "max_running_requests": scripts.DECODING,
    "chunked_prefill_size": scripts.CHUNK_TOKENS,
}
_EIGHT_LAYERS: Final = {
    # Drawn from the seed: there is no trained checkpoint with enough layers for four stages.
    "load_format": "dummy",
    "json_model_override_args": json.dumps({"num_hidden_layers": 8, "hidden_size": 512}),
}
_WINDOWS: Final = {
    "swa_full_tokens_ratio": 0.5,
    "json_model_override_args": json.dumps(
        {
            "use_sliding_window": True,
            "sliding_window": WINDOW_TOKENS,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        }
    ),
}
_SPECULATION: Final = {
    "speculative_algorithm": "EAGLE3",
    "speculative_draft_model_path": "tiny-draft",
    "speculative_num_steps": 3,
}

Tokens = list[list[int]]
Logprobs = list[list[float]]


@dataclass(frozen=True)
class Topology:
    """One way to spread the engine: engine arguments beside the common ones, and those of its model."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    has_processes: bool = False


@dataclass(frozen=True)
class Answers:
    """Output tokens and their log probabilities, prompt after prompt."""

    tokens: Tokens
    logprobs: Logprobs


@dataclass
class Row:
    """What was found of one topology; ``None`` is what was not measured."""

    name: str
    same_tokens_as_cpu: bool | None = None
    same_tokens_as_one_device: bool | None = None
    logprobs_off_cpu: float | None = None
    logprobs_off_one_device: float | None = None
    decode_ms: float | None = None
    decode_checked_ms: float | None = None
    seconds: float = 0.0
    error: str = ""

    def is_right(self) -> bool:
        """Whether it says what one device says."""
        near = self.logprobs_off_cpu is not None and self.logprobs_off_cpu <= LOGPROB_TOLERANCE
        alike = self.logprobs_off_one_device == 0.0
        return bool(self.same_tokens_as_cpu and self.same_tokens_as_one_device and near and alike)


def topologies(device: str, count: int) -> list[Topology]:
    """Those for so many devices of a kind; one device of each model is the first that has it."""
    first, second = (f"{device}:0", f"{device}:{1 % count}") if device == CUDA else (CPU, CPU)
    found = [
        Topology(ONE_DEVICE),
        Topology("pp=2, in turn", {"pp_size": 2}),
        Topology("pp=2, a process each", {"pp_size": 2}, has_processes=True),
        Topology(
            "prefill/decode pair",
            {
                "disaggregation_mode": "pair",
                "prefill_kwargs": {"device": first},
                "decode_kwargs": {"device": second},
            },
        ),
        Topology("speculation", _SPECULATION),
        Topology(f"{ONE_DEVICE}, windows", model=_WINDOWS),
        Topology(f"{ONE_DEVICE}, 8 layers", model=_EIGHT_LAYERS),
        Topology("pp=2, 8 layers, in turn", {"pp_size": 2}, _EIGHT_LAYERS),
        Topology("pp=4, 8 layers, in turn", {"pp_size": 4}, _EIGHT_LAYERS),
    ]
    if device == CPU or count >= 4:
        found.append(
            Topology("pp=4, 8 layers, a process each", {"pp_size": 4}, _EIGHT_LAYERS, True)
        )
    return found


def answers(t: Any, file: str, warm: bool) -> Iterator[None]:
    """Write what the prompts are answered with; ``warm`` caches the beginning of two of them before."""
    vocab = t.engine.vocab_size
    prompts = [
        [4 + (i * i + 31 * n * i + n) % (vocab - 4) for i in range(length)]
        for n, length in enumerate(PROMPT_LENS)
    ]
    if warm:
        for prompt in prompts[2:]:
            handle = t.start_req(input_ids=prompt[:SHARED_LEN], max_new_tokens=1, ignore_eos=True)
            yield from _to_the_end([handle])
    handles = [
        t.start_req(
            input_ids=prompt, max_new_tokens=NEW_TOKENS, ignore_eos=True, return_logprob=True
        )
        for prompt in prompts
    ]
    requests: list[Any] = [None] * len(handles)
    for _ in range(_STEPS):
        yield
        # A request is let go of at its end.
        requests = [handle.req or old for handle, old in zip(handles, requests, strict=True)]
        if all(handle.finished for handle in handles):
            break
    found = Answers(
        tokens=[list(handle.output_ids) for handle in handles],
        logprobs=[[one.logprob for one in request.output_logprobs] for request in requests],
    )
    Path(file).write_text(json.dumps(asdict(found)), encoding="utf-8")


def _to_the_end(handles: Sequence[Any]) -> Iterator[None]:
    for _ in range(_STEPS):
        yield
        if all(handle.finished for handle in handles):
            return
    raise AssertionError(f"{handles} have not finished after {_STEPS} steps")


@contextlib.contextmanager
def started(topology: Topology, device: str) -> Iterator[InProcessSession | ScriptedHttpServer]:
    """The engine of one topology."""
    kwargs = {**_BASE, "device": device, **topology.model, **topology.kwargs}
    if not topology.has_processes:
        with InProcessSession.start(backend="reference", **kwargs) as session:
            yield session
        return
    server = ScriptedHttpServer.start(backend="reference:server", **kwargs)
    try:
        yield server
    finally:
        server.shutdown()


def answers_of(
    session: InProcessSession | ScriptedHttpServer, folder: Path, *, warm: bool
) -> Answers:
    """What an engine says, by a script in it."""
    file = folder / "answers.json"
    session.execute_script(answers, args=(str(file), warm))
    return Answers(**json.loads(file.read_text(encoding="utf-8")))


def step_ms(
    session: InProcessSession | ScriptedHttpServer, folder: Path, *, check_invariants: bool
) -> float:
    """The median of a step of the workload, in milliseconds."""
    file = folder / "decode.json"
    session.execute_script(scripts.decode, args=(str(file),), check_invariants=check_invariants)
    seconds: list[float] = json.loads(file.read_text(encoding="utf-8"))
    return statistics.median(seconds) * 1e3


def measure(
    topology: Topology,
    device: str,
    *,
    folder: Path,
    on_cpu: Sequence[Answers],
    on_one: Sequence[Answers] | None,
) -> tuple[Row, list[Answers]]:
    """One row, and the answers without and with a cached prefix; ``on_one``: ``None`` of one device."""
    row = Row(topology.name)
    begun = time.monotonic()
    with started(topology, device) as session:
        said = [answers_of(session, folder, warm=warm) for warm in (False, True)]
        row.decode_ms = step_ms(session, folder, check_invariants=False)
        row.decode_checked_ms = step_ms(session, folder, check_invariants=True)
    row.seconds = time.monotonic() - begun
    one = said if on_one is None else on_one
    row.same_tokens_as_cpu, row.logprobs_off_cpu = _compared(said, on_cpu)
    # Of one device itself: whether a cached prefix changes anything.
    row.same_tokens_as_one_device, row.logprobs_off_one_device = _compared(said, [one[0]] * 2)
    return row, said


def _compared(said: Sequence[Answers], right: Sequence[Answers]) -> tuple[bool, float]:
    pairs = list(zip(said, right, strict=True))
    same = all(mine.tokens == theirs.tokens for mine, theirs in pairs)
    off = [
        abs(a - b)
        for mine, theirs in pairs
        for one, other in zip(mine.logprobs, theirs.logprobs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return same, max(off)


def rows(device: str, count: int, *, only: str) -> Iterator[Row]:
    """Row after row; one that cannot be measured says why."""
    right: dict[str, list[Answers]] = {}
    one: dict[str, list[Answers]] = {}
    with tempfile.TemporaryDirectory(prefix="scripted-devices-") as name:
        folder = Path(name)
        for topology in topologies(device, count):
            model = json.dumps(dict(topology.model), sort_keys=True)
            is_one = not topology.kwargs
            if only not in topology.name and not is_one:
                continue
            try:
                if model not in right:
                    with started(Topology("", model=topology.model), CPU) as session:
                        found = answers_of(session, folder, warm=False)
                        right[model] = [found, found]
                row, said = measure(
                    topology,
                    device,
                    folder=folder,
                    on_cpu=right[model],
                    on_one=None if is_one else one[model],
                )
            except (ScriptedError, RuntimeError, KeyError) as error:
                row, said = Row(topology.name, error=f"{type(error).__name__}: {error}"), []
            if is_one and said:
                one[model] = said
            yield row


def markdown(found: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The table."""
    lines = [
        ", ".join(f"{name} {value}" for name, value in about.items()),
        "",
        "| topology | tokens of a CPU | tokens of one device | log probabilities off a CPU's, at most "
        "| off one device's | decode per yield, ms | with the invariants, ms | to one device |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    alone = {
        row.name.removeprefix(ONE_DEVICE): row.decode_ms for row in found if ONE_DEVICE in row.name
    }
    for row in found:
        if row.error:
            lines.append(f"| {row.name} | {row.error.splitlines()[0]} |" + " |" * 6)
            continue
        model = next((key for key in alone if key and key.split(", ")[1] in row.name), "")
        base = alone.get(model)
        assert row.decode_ms is not None, "it was measured"
        cells = [
            row.name,
            "yes" if row.same_tokens_as_cpu else "**no**",
            "yes" if row.same_tokens_as_one_device else "**no**",
            f"{row.logprobs_off_cpu:.2g}",
            f"{row.logprobs_off_one_device:.2g}",
            f"{row.decode_ms:.3g}",
            f"{row.decode_checked_ms:.3g}",
            f"{row.decode_ms / base:.2f}" if base else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _about(device: str) -> tuple[dict[str, Any], int]:
    import torch  # slow to import, and --help needs none

    count = torch.cuda.device_count() if device == CUDA else 1
    if device == CUDA and count == 0:
        raise SystemExit(
            "bench.devices: torch finds no GPU here; --device cpu rehearses without one"
        )
    about = {"torch": torch.__version__, "Python": platform.python_version()}
    if device == CUDA:
        about |= {"GPU": torch.cuda.get_device_name(0), "GPUs": count}
    return about, count


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 0 if every answer is right."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.devices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=(CUDA, CPU), default=CUDA)
    parser.add_argument("--only", default="", help="topologies whose name contains this")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the rows to this file"
    )
    given = parser.parse_args(arguments)
    about, count = _about(given.device)
    found = []
    for row in rows(given.device, count, only=given.only):
        print(
            f"measured {row.name} in {row.seconds:.0f} s {row.error}", file=sys.stderr, flush=True
        )
        found.append(row)
        if given.json is not None:  # what there is, in case somebody interrupts it
            text = json.dumps({"about": about, "rows": [asdict(row) for row in found]}, indent=1)
            given.json.write_text(text + "\n", encoding="utf-8")
    print(markdown(found, about))
    return 0 if all(row.is_right() for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())

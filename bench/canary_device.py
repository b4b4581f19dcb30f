"""What the KV canary costs a decode step on a GPU: ``python -m bench.canary_device``.

A transformer of the shape of an 8-billion-parameter model (32 layers, hidden size 4096, 32 heads and 8
of keys and values, bfloat16, random weights) decodes 64 requests over a KV pool, its step captured in a
CUDA graph, as an engine's is. The step with the canary and without it take turns over the same
positions, so that each pair has the same work. Prints Markdown; ``--json FILE`` also writes it as JSON.
At the end one slot in use is flipped in each mode, and the canary has to say so: exit status 1 if it
does not, or if it says anything before. ``--layers`` and ``--hidden`` make a small one to rehearse with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from scripted_canary.canary import Canary
from scripted_canary.settings import CanaryMode, CanarySettings, RealData
from scripted_core.kv_watch import CachedSlots, KvBatch, KvGroup, KvStorageView, KvWatcher
from torch.nn import functional

BATCH: Final = 64
_HEAD_DIM: Final = 128
_HEADS_FOR_ONE_OF_KV: Final = 4
_FEED_FORWARD: Final = 3.5
_VOCABULARY: Final = 128_256
_PROMPT: Final = 1000
_STEPS: Final = 16
_FULL: Final = "full"


@dataclass(frozen=True)
class Shape:
    """Of the model."""

    layers: int
    hidden: int
    vocabulary: int

    @property
    def kv_width(self) -> int:
        """Numbers that the key of a token has in a layer."""
        return self.hidden // _HEADS_FOR_ONE_OF_KV


class Decoder:
    """The model, its KV pool and one decode step of 64 requests, each with room for ``context`` tokens.

    Slot ``request * context + position`` holds a token, so that attention reads the pool where it lies.
    """

    def __init__(self, shape: Shape, *, context: int, device: torch.device) -> None:
        self.shape, self.context, self.device = shape, context, device
        kind = {"dtype": torch.bfloat16, "device": device}
        wide = int(shape.hidden * _FEED_FORWARD)

        def weight(rows: int, columns: int) -> torch.Tensor:
            return torch.randn(rows, columns, **kind) * columns**-0.5

        self.embedding = weight(shape.vocabulary, shape.hidden)
        self.layers = [
            (
                weight(shape.hidden + 2 * shape.kv_width, shape.hidden),
                weight(shape.hidden, shape.hidden),
                weight(2 * wide, shape.hidden),
                weight(shape.hidden, wide),
            )
            for _ in range(shape.layers)
        ]
        slots = BATCH * context
        # Contents as after a prefill: any, as long as they stay.
        self.keys, self.values = (
            [torch.randn(slots, shape.kv_width, **kind) for _ in range(shape.layers)]
            for _ in range(2)
        )
        self.tokens = torch.randint(shape.vocabulary, (BATCH,), device=device)
        self.out_slots = torch.zeros(BATCH, dtype=torch.int64, device=device)
        self._replay: Callable[[], object] = self._compute
        if device.type == "cuda":
            self._capture()

    def step(self) -> None:
        """Write the KV of ``tokens`` into ``out_slots``, and put the next tokens in their place."""
        self._replay()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        self._replay = graph.replay

    def _compute(self) -> None:
        hidden, kv = self.shape.hidden, self.shape.kv_width
        stream = self.embedding[self.tokens]
        for (qkv, out, gate_up, down), keys, values in zip(
            self.layers, self.keys, self.values, strict=True
        ):
            query, key, value = functional.linear(_normal(stream), qkv).split([hidden, kv, kv], 1)
            keys.index_copy_(0, self.out_slots, key)
            values.index_copy_(0, self.out_slots, value)
            seen = functional.scaled_dot_product_attention(
                query.view(BATCH, 1, -1, _HEAD_DIM).transpose(1, 2),
                keys.view(BATCH, self.context, -1, _HEAD_DIM).transpose(1, 2),
                values.view(BATCH, self.context, -1, _HEAD_DIM).transpose(1, 2),
                enable_gqa=True,
            )
            stream = stream + functional.linear(seen.transpose(1, 2).reshape(BATCH, hidden), out)
            gate, up = functional.linear(_normal(stream), gate_up).chunk(2, 1)
            stream = stream + functional.linear(functional.silu(gate) * up, down)
        self.tokens.copy_(functional.linear(_normal(stream), self.embedding).argmax(1))


def _normal(values: torch.Tensor) -> torch.Tensor:
    return functional.rms_norm(values, values.shape[-1:])


class Requests:
    """The requests that decode, shown to a canary as an engine shows its own."""

    def __init__(self, decoder: Decoder, *, prompt_len: int) -> None:
        self.decoder = decoder
        device, context = decoder.device, decoder.context
        self.rows = torch.arange(BATCH, device=device)
        self.table = (self.rows[:, None] * context + torch.arange(context, device=device)).int()
        self.starts = torch.full((BATCH,), prompt_len, device=device)
        self.longest = prompt_len
        self.prompts = torch.randint(decoder.shape.vocabulary, (BATCH, prompt_len), device=device)
        self._told = self.prompts.tolist()
        self._first = decoder.tokens.clone()
        self._names = tuple(object() for _ in range(BATCH))
        self.forwards = 0
        self.kv_watcher: KvWatcher | None = None

    # --- KvWatchPort

    def kv_watch_settings(self) -> Mapping[str, Any]:
        """None: the canary is made here."""
        return {}

    def kv_groups(self) -> Sequence[KvGroup]:
        """One pool."""
        buffers = (*self.decoder.keys, *self.decoder.values)
        pool = KvStorageView(name=_FULL, buffers=buffers)
        return (KvGroup(name=_FULL, table=self.table, storages=(pool,)),)

    def watch_kv(self, watcher: KvWatcher | None) -> None:
        """Tell it of the steps to come."""
        self.kv_watcher = watcher

    def cached_slots(self, storage: str) -> CachedSlots | None:
        """There is no prefix tree."""
        return None

    def forwards_total(self, group: str) -> int:
        """Forwards that the canary is to be told of."""
        return self.forwards

    # --- what happens

    def prefill(self) -> None:
        """Say that the prompts were computed."""
        watcher = self.kv_watcher
        assert watcher is not None, "told of every forward, this one too"
        length = self.prompts.shape[1]
        batch = self._batch(
            starts=torch.zeros_like(self.starts),
            longest=0,
            counts=[length] * BATCH,
            input_ids=self.prompts.flatten(),
            out_slots=self.table[:, :length].flatten().long(),
        )
        watcher.before_forward(_FULL, batch)
        self.forwards += 1
        watcher.after_forward(_FULL, batch, self._first)

    def decode(self, steps: int, *, watched: bool) -> None:
        """Decode ``steps`` tokens of each request."""
        decoder = self.decoder
        for _ in range(steps):
            slots = self.rows * decoder.context + self.starts
            decoder.out_slots.copy_(slots)
            if watched and self.kv_watcher is not None:
                batch = self._batch(
                    starts=self.starts,
                    longest=self.longest,
                    counts=None,
                    input_ids=decoder.tokens,
                    out_slots=slots,
                )
                fed = decoder.tokens.clone()
                batch.input_ids = fed
                self.kv_watcher.before_forward(_FULL, batch)
                decoder.step()
                self.forwards += 1
                self.kv_watcher.after_forward(_FULL, batch, decoder.tokens)
            else:
                decoder.step()
            self.starts = self.starts + 1
            self.longest += 1

    def _batch(self, **given: Any) -> KvBatch:
        return KvBatch(
            requests=self._names,
            rids=lambda: [f"request {index}" for index in range(BATCH)],
            rows=self.rows,
            tokens_of=lambda index, start, end: self._told[index][start:end],
            next_known=True,
            **given,
        )


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Milliseconds that a device takes for some work, the launch of it included."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end))


def measure(
    shape: Shape, real_data: RealData, *, pairs: int, device: torch.device
) -> dict[str, Any]:
    """Steps with and without the canary in turn, and whether a flipped slot is found."""
    torch.manual_seed(1)
    context = _PROMPT + (pairs + 1) * _STEPS + 8
    decoder = Decoder(shape, context=context, device=device)
    requests = Requests(decoder, prompt_len=_PROMPT)
    canary = Canary(requests, settings=CanarySettings(mode=CanaryMode.LOG, real_data=real_data))
    canary.attach()
    requests.prefill()
    plain, watched = [], []
    for pair in range(pairs + 1):
        starts, longest, tokens = requests.starts, requests.longest, decoder.tokens.clone()
        # The same positions twice: what is written without the canary is written again with it.
        alone = timed(device, lambda: requests.decode(_STEPS, watched=False))
        requests.starts, requests.longest = starts, longest
        decoder.tokens.copy_(tokens)
        both = timed(device, lambda: requests.decode(_STEPS, watched=True))
        if pair:  # the first warms up
            plain.append(alone / _STEPS)
            watched.append(both / _STEPS)
    canary.collect()
    alarms = canary.violations_total
    decoder.keys[0][7] += 1.0
    requests.decode(1, watched=True)
    canary.collect()
    found = canary.violations_total - alarms
    return {
        "real_data": real_data.value,
        "plain_ms": statistics.median(plain),
        "watched_ms": statistics.median(watched),
        "overhead_percent": [
            100 * (with_it / without - 1) for without, with_it in zip(plain, watched, strict=True)
        ],
        "verified_slots_per_step": BATCH * _PROMPT,
        "false_alarms": alarms,
        "flip_found": found,
        "is_right": alarms == 0 and (found == 1 or real_data is RealData.NONE),
    }


def main() -> int:
    """Measure each mode and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--layers", type=int, default=32, metavar="N")
    parser.add_argument("--hidden", type=int, default=4096, metavar="N")
    parser.add_argument("--vocabulary", type=int, default=_VOCABULARY, metavar="N")
    parser.add_argument("--pairs", type=int, default=12, metavar="N", help="per mode (12)")
    parser.add_argument("--device", default="cuda", metavar="NAME")
    given = parser.parse_args()
    device = torch.device(given.device)
    shape = Shape(given.layers, given.hidden, given.vocabulary)
    torch.set_grad_enabled(False)
    rows = [measure(shape, mode, pairs=given.pairs, device=device) for mode in RealData]
    print("| real data | step alone, ms | with the canary, ms | overhead, median (quartiles) |")
    print("|---|---:|---:|---:|")
    for row in rows:
        low, middle, high = statistics.quantiles(row["overhead_percent"], n=4)
        print(
            f"| {row['real_data']} | {row['plain_ms']:.3f} | {row['watched_ms']:.3f} "
            f"| {middle:.2f} % ({low:.2f} to {high:.2f}) |"
        )
    wrong = [row for row in rows if not row["is_right"]]
    for row in wrong:
        print(
            f"canary_device: mode {row['real_data']}: {row['false_alarms']} false alarms, the flip "
            f"was found {row['flip_found']} times",
            file=sys.stderr,
        )
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

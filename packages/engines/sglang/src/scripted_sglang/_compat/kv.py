"""KV buffers, and what a forward of theirs is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scripted_sglang._compat.disaggregation import outputs_of


def kv_buffers(scheduler: Any) -> tuple[Any, ...] | None:
    """Keys and values of each layer, ``[slots, ...]``, where a scheduler has one pool of such.

    ``None`` for other pools: of hybrid models, of latent attention, of quantized KV.
    """
    pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
    keys, values = getattr(pool, "k_buffer", None), getattr(pool, "v_buffer", None)
    if not keys or not values or getattr(pool, "k_scale_buffer", None) is not None:
        return None
    return tuple(buffer for pair in zip(keys, values, strict=True) for buffer in pair)


def is_plain(scheduler: Any) -> bool:
    """Whether a forward of its model computes each token once, and chooses one for each request."""
    return bool(scheduler.is_generation and scheduler.spec_algorithm.is_none())


@dataclass(frozen=True)
class Prepared:
    """A batch that goes to the model.

    Attributes:
        starts: tokens of each request whose KV is there.
        counts: new tokens of each; ``None`` where it is one each.
    """

    rows: Any
    starts: Any
    longest: int
    counts: Sequence[int] | None


def prepared(batch: Any) -> Prepared | None:
    """What a batch is about to compute; ``None`` when it computes nothing."""
    mode = batch.forward_mode
    if mode.is_decode():
        lens = batch.seq_lens if batch.seq_lens_cpu is None else batch.seq_lens_cpu
        return Prepared(batch.req_pool_indices, batch.seq_lens - 1, int(lens.max()) - 1, None)
    if mode.is_extend():
        starts = np.array(batch.prefix_lens, dtype=np.int64)
        counts = list(batch.extend_lens)
        return Prepared(batch.req_pool_indices, starts, int(starts.max()), counts)
    return None


def tokens_of(req: Any, start: int, end: int) -> list[int]:
    """Tokens of a request from a position up to another, as far as there are any yet."""
    prompt = req.origin_input_ids
    if end <= len(prompt):
        return list(prompt[start:end])
    outputs = list(outputs_of(req)[max(start - len(prompt), 0) : end - len(prompt)])
    return [*prompt[start:], *outputs]


def forwards_of(scheduler: Any) -> int:
    """Batches that the scheduler has run since its start, by its own count."""
    return int(scheduler.forward_ct)

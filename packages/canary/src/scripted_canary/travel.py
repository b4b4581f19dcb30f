"""What is known of slots, between the processes of two engines: raw columns of 64-bit numbers.

The bytes of the KV are hashed where a forward has written them. That hash goes with the KV, and what has
arrived is never hashed anew: so the engine that reads it verifies the way there as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scripted_core.errors import ConfigError
from scripted_core.kv_watch import SentSlots

from scripted_canary._version import __version__
from scripted_canary.arrays import Array
from scripted_canary.settings import RealData
from scripted_canary.shadow import Known

_WORD: Final = np.dtype("<i8")


def scheme_of(real_data: RealData) -> str:
    """What two canaries have to have in common."""
    return f"scripted-canary {__version__}, kv_canary_real_data={real_data.value!r}"


def pack(known: Sequence[Known], *, scheme: str) -> SentSlots:
    """What is known of slots in each pool, to be sent."""
    return SentSlots(
        scheme,
        tuple((_bytes(one.heads), _bytes(one.chains), _bytes(one.data)) for one in known),
    )


def unpack(sent: SentSlots | None, *, scheme: str, slots: int, pools: int) -> tuple[Known, ...]:
    """What was known of so many slots in each of so many pools.

    Raises ``ConfigError`` where the sender has no canary, or one that works in another way.
    """
    if sent is None or sent.scheme != scheme:
        there = "has no KV canary" if sent is None else f"has the KV canary {sent.scheme}"
        raise ConfigError(
            f"the engine that computed this KV {there}, and this one has {scheme}",
            hint="start both with the same kv_canary and kv_canary_real_data",
        )
    if len(sent.storages) != pools:
        raise ConfigError(
            f"KV of {len(sent.storages)} pools was sent to an engine that has {pools}",
            hint="start both with the same model",
        )
    return tuple(Known(*(_numbers(column, slots) for column in one)) for one in sent.storages)


def _bytes(numbers: Array) -> bytes:
    on_host = numbers if isinstance(numbers, np.ndarray) else numbers.cpu().numpy()
    column: bytes = on_host.astype(_WORD, copy=False).tobytes()
    return column


def _numbers(column: bytes, count: int) -> Array:
    numbers = np.frombuffer(column, dtype=_WORD)
    if len(numbers) != count:
        raise ConfigError(
            f"what is known of {len(numbers)} KV slots was sent for {count} slots",
            hint="the servers of a pair have to be of the same release",
        )
    return numbers.astype(np.int64)

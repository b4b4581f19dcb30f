"""A shard as it is written: `2/4`, the second of four."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scripted_registry.errors import ConfigError

MOST_SHARDS = 1000


@dataclass(frozen=True)
class ShardName:
    """Shard `index` of `of`, counted from 1."""

    index: int = 1
    of: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"


def parse_shard(text: str) -> ShardName:
    """Read `i/n`; `ConfigError` for anything that names no shard."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6})\s*", text)
    if found is None:
        raise ConfigError(
            f"{text!r} is no shard", hint="write i/n, as in --shard 1/4: the first of four"
        )
    shard = ShardName(int(found[1]), int(found[2]))
    if shard.of > MOST_SHARDS:
        raise ConfigError(
            f"{shard.of} shards are too many",
            hint=f"at most {MOST_SHARDS}: --shard 1/{MOST_SHARDS}",
        )
    if shard.of < 1:
        raise ConfigError(f"there are no {shard.of} shards", hint="--shard 1/1 is everything")
    if not 1 <= shard.index <= shard.of:
        raise ConfigError(
            f"there is no shard {shard.index} of {shard.of}",
            hint=f"shards are counted from 1: --shard 1/{shard.of} to {shard.of}/{shard.of}",
        )
    return shard

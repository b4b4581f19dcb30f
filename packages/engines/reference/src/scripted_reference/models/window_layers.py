"""Which layers of a `config.json` see a sliding window only, and how long that is."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from scripted_registry.errors import ConfigError

_LEAST_WINDOW: Final = 2
_DEFAULT_FULL_LAYERS: Final = 28
"""Of `max_window_layers`, in `transformers`."""


class LayerType(StrEnum):
    """What a layer sees, in the words of `transformers`."""

    FULL = "full_attention"
    SLIDING = "sliding_attention"


def read_windows(
    raw: Mapping[str, Any], file: Path, *, num_layers: int
) -> tuple[int | None, frozenset[int]]:
    """Return the window in tokens and the layers that have it; `None` and none where all see everything.

    `layer_types` says it layer by layer. Without it Qwen2 and Qwen3 have windows when
    `use_sliding_window` says so, from layer `max_window_layers` on. Raises `ConfigError` for what
    contradicts itself or is none of that.
    """
    layers = _sliding_layers(raw, file, num_layers=num_layers)
    if not layers:
        return None, frozenset()
    window = raw.get("sliding_window")
    if isinstance(window, bool) or not isinstance(window, int) or window < _LEAST_WINDOW:
        raise ConfigError(
            f"{file}: layers have a sliding window, and sliding_window={window!r} does not say how long",
            hint=f"use a whole number from {_LEAST_WINDOW} on",
        )
    return window, layers


def _sliding_layers(raw: Mapping[str, Any], file: Path, *, num_layers: int) -> frozenset[int]:
    types = raw.get("layer_types")
    if types is None:
        if not raw.get("use_sliding_window", False):
            return frozenset()
        first = raw.get("max_window_layers", _DEFAULT_FULL_LAYERS)
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise ConfigError(
                f"{file}: max_window_layers={first!r} is no number of layers",
                hint="use a whole number from 0 on",
            )
        return frozenset(range(first, num_layers))
    if not isinstance(types, list) or any(kind not in tuple(LayerType) for kind in types):
        raise ConfigError(
            f"{file}: layer_types={types!r} is not implemented in the reference engine",
            hint=f"use a list of {' and '.join(repr(kind.value) for kind in LayerType)}",
        )
    if len(types) != num_layers:
        raise ConfigError(
            f"{file}: layer_types has {len(types)} entries for {num_layers} layers",
            hint="give one for each layer",
        )
    return frozenset(index for index, kind in enumerate(types) if kind == LayerType.SLIDING)

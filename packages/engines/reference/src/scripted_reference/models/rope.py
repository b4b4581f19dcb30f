"""Rotary position embeddings (Su et al., "RoFormer", 2021): frequencies, and tables of them.

Scaling as in `transformers`: `linear`, which divides every frequency, and `llama3`, which leaves the
high frequencies alone, divides the low ones and goes over smoothly in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scripted_registry.errors import ConfigError

from scripted_reference.models.folder import is_positive_number

FloatArray = npt.NDArray[np.float32]

_DEFAULT_THETA: Final = 10_000.0


class RopeType(StrEnum):
    """How the frequencies are scaled."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeParameters:
    """The base of the frequencies and their scaling; names as in `config.json`."""

    theta: float = _DEFAULT_THETA
    rope_type: RopeType = RopeType.DEFAULT
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: float = 8192.0


def read_rope(raw: Mapping[str, Any], file: Path) -> RopeParameters:
    """Read `rope_parameters`, or the older `rope_theta` and `rope_scaling`, of a `config.json`.

    Raises `ConfigError` for a kind of scaling that is not implemented and for impossible values.
    """
    given = _given(raw, file)
    name = given.get("rope_type", given.get("type", RopeType.DEFAULT.value))
    if name not in tuple(RopeType):
        known = ", ".join(kind.value for kind in RopeType)
        raise ConfigError(
            f"{file}: rope scaling {name!r} is not implemented in the reference engine",
            hint=f"use a model with one of these: {known}",
        )
    if given.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(
            f"{file}: partial_rotary_factor={given['partial_rotary_factor']!r} is not implemented",
            hint="use a model whose heads are rotated as a whole",
        )
    older_theta = raw.get("rope_theta")
    theta = _positive(
        given, "rope_theta", _DEFAULT_THETA if older_theta is None else older_theta, file
    )
    rope_type = RopeType(name)
    if rope_type is RopeType.DEFAULT:
        return RopeParameters(theta=theta)
    factor = _positive(given, "factor", None, file)
    if rope_type is RopeType.LINEAR:
        return RopeParameters(theta=theta, rope_type=rope_type, factor=factor)
    return RopeParameters(
        theta=theta,
        rope_type=rope_type,
        factor=factor,
        low_freq_factor=_positive(given, "low_freq_factor", None, file),
        high_freq_factor=_positive(given, "high_freq_factor", None, file),
        original_max_position_embeddings=_positive(
            given, "original_max_position_embeddings", None, file
        ),
    )


def rope_tables(
    rope: RopeParameters, *, head_dim: int, num_positions: int
) -> tuple[FloatArray, FloatArray]:
    """Return cosines and signed sines, `float32[num_positions, head_dim]` each.

    A head `x` is rotated to `x * cos + roll(x, head_dim / 2) * sin`: the sines of its first half are
    negative, so that no half has to be negated.
    """
    half = head_dim // 2
    frequencies = _frequencies(rope, head_dim)
    angles = np.arange(num_positions, dtype=np.float32)[:, None] * frequencies[None, :]
    cos, sin = np.cos(angles), np.sin(angles)
    assert cos.shape == (num_positions, half)
    return np.concatenate((cos, cos), axis=1), np.concatenate((-sin, sin), axis=1)


def _frequencies(rope: RopeParameters, head_dim: int) -> FloatArray:
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim
    frequencies = (1.0 / rope.theta**exponents).astype(np.float32)
    if rope.rope_type is RopeType.DEFAULT:
        return frequencies
    scaled = frequencies / np.float32(rope.factor)
    if rope.rope_type is RopeType.LINEAR:
        return scaled
    turns = rope.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
    smooth: FloatArray = keep * frequencies + (1 - keep) * scaled
    return smooth


def _given(raw: Mapping[str, Any], file: Path) -> Mapping[str, Any]:
    for key in ("rope_parameters", "rope_scaling"):
        given = raw.get(key)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise ConfigError(f"{file}: {key}={given!r} is no object", hint="repair the file")
        if given:
            return given
    return {}


def _positive(given: Mapping[str, Any], key: str, default: Any, file: Path) -> float:
    value = given.get(key, default)
    if not is_positive_number(value):
        raise ConfigError(
            f"{file}: {key}={value!r} of the rope parameters is not a positive number",
            hint="use a positive number",
        )
    return float(value)

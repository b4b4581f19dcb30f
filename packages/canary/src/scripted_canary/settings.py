"""How a canary works: its mode, what it hashes, how often it sweeps. SGLang's argument values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeVar

from scripted_core.errors import ConfigError


class CanaryMode(StrEnum):
    """What becomes of a violation: no canary at all, kept and logged, or an error besides."""

    OFF = "none"
    LOG = "log"
    RAISE = "raise"


class RealData(StrEnum):
    """How much of the real KV of a slot is hashed.

    ``PARTIAL``: its first 16 bytes, which are the first numbers of its key in the pool's first layer.
    ``ALL``: its keys and values in every layer.
    """

    NONE = "none"
    PARTIAL = "partial"
    ALL = "all"


DEFAULT_SWEEP_INTERVAL: Final = 32
DEFAULT_RING_CAPACITY: Final = 256
_Member = TypeVar("_Member", CanaryMode, RealData)


@dataclass(frozen=True, kw_only=True)
class CanarySettings:
    """The settings of one canary; ``ConfigError`` for impossible ones.

    Attributes:
        mode: what becomes of a violation.
        real_data: how much of the real KV is hashed.
        sweep_interval: after so many forwards all slots of the prefix tree are verified; 0: never.
        ring_capacity: so many of the last violations are kept; all are counted.
    """

    mode: CanaryMode = CanaryMode.LOG
    real_data: RealData = RealData.PARTIAL
    sweep_interval: int = DEFAULT_SWEEP_INTERVAL
    ring_capacity: int = DEFAULT_RING_CAPACITY

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", _member(CanaryMode, "kv_canary", self.mode))
        object.__setattr__(
            self, "real_data", _member(RealData, "kv_canary_real_data", self.real_data)
        )
        for name, least in (("sweep_interval", 0), ("ring_capacity", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"canary: {name}={value!r} is no number from {least} on",
                    hint=f"use a whole number from {least} on",
                )


def settings_of(arguments: Mapping[str, Any]) -> CanarySettings:
    """Settings from engine arguments, by SGLang's names; ``None`` stands for the default."""
    names = {
        "mode": "kv_canary",
        "real_data": "kv_canary_real_data",
        "sweep_interval": "kv_canary_sweep_interval",
    }
    given = {name: arguments.get(argument) for name, argument in names.items()}
    return CanarySettings(**{name: value for name, value in given.items() if value is not None})


def _member(kind: type[_Member], argument: str, value: str) -> _Member:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ConfigError(
            f"engine argument {argument}={value!r} is unknown", hint=f"use one of {known}"
        ) from None

"""Which server arguments are for our KV canary, and how they get to the scheduler process.

SGLang has a KV canary of its own, which needs triton. On a CPU the arguments of the same names are for
ours, and travel in a variable that every rank of a tensor parallel group reads. The servers of a pair
have SGLang's own, which knows of pairs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from scripted_core.errors import ConfigError

from scripted_sglang.environment import ENV_KV_CANARY

_SWEEP_INTERVAL: Final = "kv_canary_sweep_interval"
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "kv_canary": ("none", "log", "raise"),
    "kv_canary_real_data": ("none", "partial", "all"),
}


def take_settings(kwargs: dict[str, Any], *, on_cpu: bool) -> dict[str, str]:
    """Take our canary's arguments out of a server's, and return the variable that stands for them.

    Nothing is taken from a server of a pair: its canary is SGLang's own. Raises ``ConfigError`` where
    the stages of a pipeline, replicas or drafts would have to be watched.
    """
    if not on_cpu or kwargs.get("kv_canary") in (None, "none"):
        return {}
    if kwargs.get("disaggregation_mode") not in (None, "null"):
        return {}
    for name in ("pp_size", "dp_size"):
        if int(str(kwargs.get(name) or 1)) > 1:
            raise _refused(kwargs, f"{name} above 1")
    if kwargs.get("speculative_algorithm") is not None:
        raise _refused(kwargs, "speculative_algorithm")
    taken = {name: kwargs.pop(name) for name in (*_CHOICES, _SWEEP_INTERVAL) if name in kwargs}
    taken = {name: value for name, value in taken.items() if value is not None}
    for name, choices in _CHOICES.items():
        if name in taken and taken[name] not in choices:
            raise ConfigError(
                f"{name}={taken[name]!r} is not one of its values",
                hint=f"use one of {', '.join(map(repr, choices))}",
            )
    interval = taken.get(_SWEEP_INTERVAL, 0)
    if isinstance(interval, bool) or not isinstance(interval, int) or interval < 0:
        raise ConfigError(
            f"{_SWEEP_INTERVAL}={interval!r} is no number of forwards", hint="use 0 for never"
        )
    return {ENV_KV_CANARY: json.dumps(taken)}


def _refused(kwargs: Mapping[str, Any], why: str) -> ConfigError:
    return ConfigError(
        f"kv_canary={kwargs['kv_canary']!r} together with {why} is not watched on SGLang yet",
        hint="leave one of them out, or use the reference engine",
    )

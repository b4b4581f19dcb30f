"""Perturbations of a server, by an environment variable: there is no script to arm them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from scripted_core.errors import ConfigError

from scripted_canary.perturb import PerturbKind, PerturbRate

PERTURB_VARIABLE: Final = "SCRIPTED_KV_PERTURB"
"""Comma-separated ``KIND:PROBABILITY``, behind which ``:SEED`` and ``:POOL`` may follow."""


def rates_from_environment(environment: Mapping[str, str] | None = None) -> tuple[PerturbRate, ...]:
    """Read the variable; ``ConfigError`` for what is wrong in it."""
    text = (os.environ if environment is None else environment).get(PERTURB_VARIABLE, "")
    return tuple(_rate(part.strip()) for part in text.split(",") if part.strip())


def _rate(text: str) -> PerturbRate:
    kind, _, rest = text.partition(":")
    probability, _, rest = rest.partition(":")
    seed, _, storage = rest.partition(":")
    try:
        chosen = PerturbKind(kind)
    except ValueError:
        known = ", ".join(one.value for one in PerturbKind)
        raise ConfigError(
            f"{PERTURB_VARIABLE}: {kind!r} in {text!r} is no kind of perturbation",
            hint=f"use one of {known}",
        ) from None
    try:
        number, seed_number = float(probability), int(seed or 0)
    except ValueError:
        number, seed_number = -1.0, 0
    if not 0 <= number <= 1:
        raise ConfigError(
            f"{PERTURB_VARIABLE}: {text!r} is not KIND:PROBABILITY[:SEED[:POOL]]",
            hint=f"for example {PerturbKind.AFTER_FORWARD.value}:0.01:7:full",
        )
    return PerturbRate(kind=chosen, probability=number, seed=seed_number, storage=storage or "full")

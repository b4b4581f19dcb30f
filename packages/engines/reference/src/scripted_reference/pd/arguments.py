"""The arguments of a prefill/decode pair, and from them those of each engine."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from scripted_core.views import Side
from scripted_registry.errors import ConfigError

from scripted_reference.args import DisaggregationMode, ServerArgs
from scripted_reference.argument_checks import wrong_argument

if TYPE_CHECKING:
    from scripted_reference.scheduler import Scheduler

PER_SIDE: Final = frozenset(
    {
        "chunked_prefill_size",
        "device",
        "disable_overlap_schedule",
        "max_prefill_tokens",
        "max_running_requests",
        "max_total_tokens",
        "schedule_conservativeness",
    }
)
"""What the engines of a pair may differ in; the decode engine has no prefix tree in any case."""


def check_pair(args: ServerArgs) -> None:
    """Raise `ConfigError` for a mode that is none, and for what a pair cannot have."""
    if args.disaggregation_mode not in tuple(DisaggregationMode):
        known = ", ".join(repr(mode.value) for mode in DisaggregationMode)
        raise wrong_argument(
            "disaggregation_mode",
            args.disaggregation_mode,
            "is no mode here",
            f"use one of {known}, or drop it",
        )
    is_pair = args.disaggregation_mode == DisaggregationMode.PAIR
    if args.disaggregation_mode != DisaggregationMode.NULL and args.dp_size != 1:
        raise wrong_argument("dp_size", args.dp_size, "is refused for a pair", "drop it")
    for name in ("prefill_kwargs", "decode_kwargs"):
        kwargs = getattr(args, name)
        if not isinstance(kwargs, Mapping):
            raise wrong_argument(name, kwargs, "is no mapping", 'use {"max_total_tokens": 512}')
        if kwargs and not is_pair:
            raise wrong_argument(
                name, dict(kwargs), "is for a pair", 'add disaggregation_mode="pair", or drop it'
            )
        for key in kwargs:
            if key not in PER_SIDE:
                raise _not_per_side(name, key)
    if is_pair:
        # The engines' own arguments are checked as any others are.
        side_args(args, Side.PREFILL)
        side_args(args, Side.DECODE)


def side_args(args: ServerArgs, side: Side) -> ServerArgs:
    """Return the arguments of one engine of a pair."""
    own: dict[str, Any] = dict(args.prefill_kwargs if side is Side.PREFILL else args.decode_kwargs)
    if side is Side.DECODE:
        own["disable_radix_cache"] = True
    return replace(
        args,
        **own,
        disaggregation_mode=DisaggregationMode.NULL,
        prefill_kwargs={},
        decode_kwargs={},
        inject_fault=None,
    )


def refuse_windows(scheduler: Scheduler, args: ServerArgs) -> None:
    """Raise `ConfigError` for a model with sliding windows."""
    if scheduler.memory.window_storage is not None:
        raise ConfigError(
            f"engine arguments disaggregation_mode={args.disaggregation_mode!s} and "
            f"model_path={args.model_path!r} with sliding windows do not go together in the "
            "reference engine",
            hint="use another model, or drop disaggregation_mode",
        )


def _not_per_side(name: str, key: object) -> ConfigError:
    near = difflib.get_close_matches(str(key), PER_SIDE, n=1)
    return wrong_argument(
        name,
        key,
        "is nothing that the engines of a pair can differ in",
        f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(sorted(PER_SIDE))}",
    )

"""What can be drawn: the engines of a topology, the operations, and the numbers in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from scripted_core.errors import ConfigError
from scripted_core.ops import TransferAction
from scripted_core.views import PauseMode, Side

from scripted_explore import operations as o
from scripted_explore.facts import Avoid
from scripted_explore.program import NEW_TOKENS

Values = Sequence[Any]
"""What a field can be; the first is the plainest, towards which a finding is shrunk."""

_SHARED: Final = (0, 1, 5, 16, 17, 32, 40)
_OWN: Final = (1, 2, 7, 16, 30, 60)
_NEW: Final = (1, 2, 3, 4, 6, 8, 12, 16, NEW_TOKENS)
_STEPS: Final = (1, 2, 3, 4, 6, 10, 20)
_LEAVE: Final = (0, 1, 2, 3, 4, 6, 8, 12, 20, 40)


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Engines of one kind: ``base`` arguments, and others of which each is drawn from its ``axes``.

    The first value of an axis is the plainest. The undisturbed runs are those of an engine with ``base``
    and no axis. ``weight`` is how often it is drawn beside other topologies.
    """

    name: str
    base: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Values] = field(default_factory=dict)
    weight: int = 1
    avoid: frozenset[Avoid] = frozenset()
    replicas: int = 1
    is_pair: bool = False
    logprobs: bool = False
    fixed: bool = False
    """Whether an engine takes so long to start that one is kept for a whole campaign."""

    @cached_property
    def fields(self) -> dict[type[o.Op], dict[str, Values]]:
        """What each field of each operation can be."""
        prompt: dict[str, Values] = {
            "family": (0, 1),
            "shared": _SHARED,
            "own": (0, 1),
            "own_tokens": _OWN,
        }
        pools = tuple(range(4))
        which = tuple(range(8))
        fields: dict[type[o.Op], dict[str, Values]] = {
            o.Steps: {"count": _STEPS},
            o.Start: {
                **prompt,
                "new_tokens": _NEW,
                "priority": (0, 1, 2),
                "stop_at": (0, 0, 0, 0, 1, 3, 6),
                "rank": tuple(range(self.replicas)),
                "logprobs": (0, 1) if self.logprobs else (0,),
            },
            o.Settle: {},
            o.UntilEnd: {"all_of_them": (0, 1)},
            o.Pause: {"mode": tuple(PauseMode)},
            o.Continue: {},
            o.Abort: {"which": which},
            o.AbortNobody: {},
            o.AbortAll: {},
            o.Flush: {},
            o.EvictAll: {},
            o.EvictPrefix: prompt,
            o.ExhaustKv: {"leave_pages": _LEAVE, "pool": pools},
            o.ExhaustRows: {"leave_rows": (0, 1, 2)},
            o.ExhaustLocks: {"leave_refs": (0, 1, 2)},
            o.Release: {},
        }
        if self.is_pair:
            sides: dict[str, Values] = {"side": tuple(Side)}
            fields |= {
                o.PauseSide: {**sides, "mode": tuple(PauseMode)},
                o.ContinueSide: sides,
                o.AbortSide: {**sides, "which": which},
                o.MoveKv: {
                    "action": tuple(TransferAction),
                    "which": (0, 1, 2, 3),
                    "count": (1, 2, 4),
                },
            }
        return fields


_SMALL: Final = {
    "max_total_tokens": 320,
    "max_running_requests": 4,
    "chunked_prefill_size": 16,
    "context_length": 160,
}
_AXES: Final[dict[str, Values]] = {
    "page_size": (1, 4, 16),
    "chunked_prefill_size": (16, 32),
    "max_total_tokens": (320, 192),
    "disable_overlap_schedule": (True, False),
    "schedule_conservativeness": (1.0, 0.0),
    "enable_priority_scheduling": (False, False, True),
    "schedule_policy": ("fcfs", "fcfs", "lpm"),
    "disable_radix_cache": (False, False, False, True),
}
_WINDOW: Final = {"json_model_override_args": {"sliding_window": 24}, "swa_full_tokens_ratio": 0.5}
_PIPELINE: Final[dict[str, Values]] = {
    "page_size": (1, 4),
    "pp_size": (2, 3),
    "pp_async_batch_depth": (0, 1),
    "schedule_conservativeness": (1.0, 0.0),
    "disable_radix_cache": (False, False, True),
}
_TINY: Final = {"model_path": "tiny", **_SMALL}

_REFERENCE: Final = (
    Topology(name="single", base=_SMALL, axes=_AXES, weight=6),
    Topology(
        name="swa",
        base=_SMALL | _WINDOW,
        axes={
            name: values
            for name, values in _AXES.items()
            if name not in ("max_total_tokens", "enable_priority_scheduling")
        }
        | {"swa_full_tokens_ratio": (0.5, 0.4)},
        weight=2,
    ),
    Topology(name="pp", base=_SMALL | {"pp_size": 2}, axes=_PIPELINE, weight=2),
    Topology(
        name="pd",
        base=_SMALL | {"disaggregation_mode": "pair", "num_reserved_decode_tokens": 16},
        axes={
            "page_size": (1, 4),
            "disable_overlap_schedule": (True,),
            "schedule_conservativeness": (1.0, 0.0),
        },
        is_pair=True,
    ),
    Topology(
        name="dp",
        base=_SMALL | {"dp_size": 2},
        axes={"page_size": (1, 4), "disable_overlap_schedule": (True, False)},
        replicas=2,
    ),
    Topology(name="tiny", base=_TINY, axes={"page_size": (1, 4)}, logprobs=True),
    Topology(
        name="spec",
        base=_TINY
        | {"speculative_algorithm": "EAGLE", "speculative_draft_model_path": "tiny-draft"},
        axes={
            "page_size": (1, 4),
            "speculative_num_steps": (3, 1),
            "disable_overlap_schedule": (True, False),
        },
    ),
    Topology(
        name="ngram",
        base=_SMALL | {"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 4},
        axes={"page_size": (1, 4), "disable_overlap_schedule": (True, False)},
    ),
)
_SGLANG_SMALL: Final = {
    "max_total_tokens": 512,
    "max_running_requests": 4,
    "chunked_prefill_size": 32,
    "context_length": 192,
}
_SGLANG: Final = tuple(
    Topology(
        name=name,
        base=_SGLANG_SMALL | more,
        avoid=frozenset({Avoid.CHUNK_UNDER_PRESSURE}),
        fixed=True,
    )
    for name, more in (
        ("single", {}),
        ("page16", {"page_size": 16}),
        ("serial", {"disable_overlap_schedule": True}),
        ("swa", {"model_path": "scripted/small-swa", "swa_full_tokens_ratio": 0.5}),
        ("tp", {"tp_size": 2}),
        ("pp", {"pp_size": 2}),
    )
)
_BY_ENGINE: Final = {"reference": _REFERENCE, "sglang": _SGLANG}
SLOW: Final = frozenset({"tiny", "spec"})
"""Topologies of real matrices: left out unless they are named."""


def topologies(engine: str, names: Sequence[str] = ()) -> tuple[Topology, ...]:
    """The topologies of an engine, those called ``names`` only; ``ConfigError`` for an unknown name.

    An engine of which nothing is known here has one, ``default``, with no arguments.
    """
    known = _BY_ENGINE.get(engine, (Topology(name="default", fixed=True),))
    if not names:
        fast = tuple(one for one in known if one.name not in SLOW)
        return fast[:1] if fast[0].fixed else fast
    by_name = {one.name: one for one in known}
    for name in names:
        if name not in by_name:
            raise ConfigError(
                f"engine {engine!r} has no topology {name!r} to explore",
                hint=f"one of {', '.join(by_name)}",
            )
    return tuple(by_name[name] for name in names)

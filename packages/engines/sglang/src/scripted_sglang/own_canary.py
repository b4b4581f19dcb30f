"""SGLang's own KV canary: when it can run on a CPU, and what it has found.

It knows of pairs: its buffers go to the decode server with the KV, so that the first forward there
verifies what the prefill server has recorded. A script in the decode server reads that one's counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scripted_core.context.api import ScriptedContext
from scripted_core.errors import ConfigError

from scripted_sglang._compat import own_canary
from scripted_sglang.standins import needed_standins

_INTERPRETED: Final = {"TRITON_INTERPRET": "1"}


@dataclass(frozen=True)
class OwnViolation:
    """One violation of SGLang's canary, in its words: ``tail_k_full``, a slot, a position, reasons."""

    launch: str
    slot: int
    position: int
    reasons: tuple[str, ...]


class OwnCanary:
    """The canary of the scheduler that a script runs in."""

    def __init__(self, t: ScriptedContext) -> None:
        """``ConfigError`` where this server was started without one."""
        manager = own_canary.own_canary_manager(t.scheduler)
        if manager is None:
            raise ConfigError(
                "this SGLang server has no KV canary of its own",
                hint="use the engine argument kv_canary='log' with disaggregation_mode='pair'",
            )
        self._manager = manager

    @property
    def violations_total(self) -> int:
        """Its violation counter."""
        return own_canary.found_total(self._manager)

    @property
    def forwards(self) -> int:
        """Forwards that it was told of."""
        return own_canary.forwards_seen(self._manager)

    def since(self, before: int) -> list[OwnViolation]:
        """What it has found since its counter was ``before``."""
        return [OwnViolation(*row) for row in own_canary.found_since(self._manager, before)]

    def launches(self) -> Mapping[str, int]:
        """How often each of its kernels has run."""
        return own_canary.launches(self._manager)


def own_canary_environment(kwargs: Mapping[str, Any], *, on_cpu: bool) -> dict[str, str]:
    """What a server with a canary of SGLang's own needs in its environment.

    Raises ``ConfigError`` on a CPU without triton, for which there is only a stand-in there.
    """
    if not on_cpu or kwargs.get("kv_canary") in (None, "none"):
        return {}
    if "triton" in needed_standins():
        raise ConfigError(
            f"kv_canary={kwargs['kv_canary']!r}: SGLang's own KV canary needs triton, which is not "
            "installed",
            hint="pip install triton (it is interpreted, no GPU is needed), or leave kv_canary out",
        )
    return dict(_INTERPRETED)

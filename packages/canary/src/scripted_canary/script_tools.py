"""What a script has of the canary: ``t.canary`` and ``t.perturb``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_core.handle import ScriptedReqHandle, require_handle
from scripted_core.kv_watch import KvWatchPort

from scripted_canary.canary import Canary
from scripted_canary.perturb import Perturbation, PerturbKind

if TYPE_CHECKING:
    from scripted_core.context import ScriptedContext


def canary_of(context: ScriptedContext) -> Canary:
    """The canary of the engine; ``ConfigError`` where its arguments ask for none."""
    engine = context.engine
    if not isinstance(engine, KvWatchPort):
        raise CapabilityMissing(
            f"t.canary: engine {engine.name!r} does not show its KV (scripted_core.kv_watch)"
        )
    if not isinstance(engine.kv_watcher, Canary):
        raise ConfigError(
            "t.canary: this engine was started without a canary",
            hint="use the engine argument kv_canary='log' or 'raise'",
        )
    return engine.kv_watcher


def perturb_of(context: ScriptedContext) -> ScriptPerturb:
    """What breaks slots."""
    return ScriptPerturb(canary_of(context))


class ScriptPerturb:
    """Breaks KV slots of this engine.

    Each call arms one perturbation; it happens at the first forward that has what it takes, and
    ``.done`` of what is returned then says at which. ``seed`` decides every choice, ``pool`` is a name
    of ``t.engine.kv_pools`` (or ``draft``).
    """

    def __init__(self, canary: Canary) -> None:
        self._canary = canary

    def flip_used_slot(
        self, *, handle: ScriptedReqHandle | None = None, pool: str = "full", seed: int = 0
    ) -> Perturbation:
        """Flip bits of a slot that the next forward reads, of one request or of any."""
        return self._arm(PerturbKind.USED_SLOT, pool=pool, seed=seed, handle=handle)

    def flip_cached_orphan(self, *, pool: str = "full", seed: int = 0) -> Perturbation:
        """Flip bits of a slot that only the prefix tree holds."""
        return self._arm(PerturbKind.CACHED_ORPHAN, pool=pool, seed=seed)

    def flip_after_forward(
        self, *, handle: ScriptedReqHandle | None = None, pool: str = "full", seed: int = 0
    ) -> Perturbation:
        """Flip bits of a slot that the next forward writes, right behind it."""
        return self._arm(PerturbKind.AFTER_FORWARD, pool=pool, seed=seed, handle=handle)

    def swap_rows(self, *, pool: str = "full", seed: int = 0) -> Perturbation:
        """Swap what two requests have in the table from positions to slots, for one forward."""
        return self._arm(PerturbKind.SWAP_ROWS, pool=pool, seed=seed)

    def swap_next_token(self, *, pool: str = "full", seed: int = 0) -> Perturbation:
        """Swap the tokens that two decoding requests are fed."""
        return self._arm(PerturbKind.SWAP_NEXT_TOKEN, pool=pool, seed=seed)

    def _arm(
        self, kind: PerturbKind, *, pool: str, seed: int, handle: ScriptedReqHandle | None = None
    ) -> Perturbation:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(
                f"perturb ({kind.value}): seed={seed!r} is no whole number",
                hint="the same whole number makes the same choices again",
            )
        rid = "" if handle is None else require_handle(f"perturb ({kind.value})", handle).rid
        return self._canary.perturber.arm(Perturbation(kind=kind, storage=pool, seed=seed, rid=rid))

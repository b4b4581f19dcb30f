"""What the engine raises when its own bookkeeping, or a caller's, breaks.

These are faults: a correct engine under a correct harness never raises one. A request that cannot be
served is no fault; it is refused by `Scheduler.validate` or finishes with reason abort.
"""

from __future__ import annotations

from scripted_registry.errors import ScriptedError


class EngineFault(ScriptedError):
    """Base of the faults of the reference engine."""

    code = "reference-fault"


class DoubleFreeError(EngineFault):
    """A KV slot or a request row was freed that nobody had taken, or freed twice."""

    code = "reference-double-free"


class PoolLeakError(EngineFault):
    """Free, cached, requested and held memory no longer add up to the pool."""

    code = "reference-pool-leak"


class LockRefError(EngineFault):
    """A tree node would be unlocked more often than it was locked."""

    code = "reference-lock-ref"


class HoldError(EngineFault):
    """Memory was to be held that is not free, or released that is not held."""

    code = "reference-hold"


class OutOfSlotsError(EngineFault):
    """Memory that the scheduler had made sure of was not there when it was taken."""

    code = "reference-out-of-slots"

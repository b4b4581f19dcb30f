"""The stages of a request's life between two engines, and the way to each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from scripted_chunked import DEFAULT_MAX_STEPS
from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.errors import ConfigError, StepsExhausted
from scripted_core.handle import require_handle
from scripted_core.views import PdStage

STAGES: Final = (
    PdStage.QUEUED,
    PdStage.PREFILLING,
    PdStage.TRANSFERRING,
    PdStage.TRANSFERRED,
    PdStage.DECODING,
)
"""Where a request is interfered with, in the order of its life."""


def advance_to_pd_stage(
    t: ScriptedContext,
    handle: ScriptedReqHandle,
    stage: PdStage | str,
    *,
    max_steps: int = DEFAULT_MAX_STEPS,
) -> Iterator[None]:
    """Step until ``handle`` is in ``stage``, a member of ``STAGES`` or its value.

    ``PREFILLING`` needs a prompt of two chunks or more. A request stays ``TRANSFERRING`` for no longer
    than the transfer takes: for that stage the transfer is held, and stays so until
    ``t.transfer.resume()``. Raises ``StepsExhausted`` when the steps run out or the request ends first.
    """
    require_handle("advance_to_pd_stage", handle)
    if stage not in STAGES:
        raise ConfigError(
            f"advance_to_pd_stage: {stage!r} is no stage to advance to",
            hint=f"one of {', '.join(one.value for one in STAGES)}",
        )
    stage = PdStage(stage)
    if stage is PdStage.TRANSFERRING:
        t.transfer.hold()
    for _ in range(max_steps):
        if t.transfer.stage(handle) is stage:
            return
        if handle.finished:
            break
        yield
    raise StepsExhausted(
        f"stage {stage.value!r} was not reached by request {handle.rid!r}, which is "
        f"{t.transfer.stage(handle).value} ({handle.finish_reason})",
        hint="a later stage cannot be left again; start another request",
    )

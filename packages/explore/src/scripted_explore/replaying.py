"""What a finding's file calls: play operations on the engine of the test."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from scripted_core import ScriptedContext
from scripted_core.capabilities import Capability

from scripted_explore.facts import Facts
from scripted_explore.operations import AnyOp
from scripted_explore.play import play
from scripted_explore.program import Expected


def replay(
    t: ScriptedContext,
    ops: Sequence[AnyOp],
    *,
    outputs: Expected,
    chunk_tokens: int = 16,
    context_tokens: int = 160,
    slots: int = 1,
    slot_requests: int | None = None,
    window_tokens: int | None = None,
    fifo: bool = True,
    replicas: int = 1,
) -> Generator[None, None, None]:
    """Do the operations, with every rule of exploration watching, and bring the engine to rest.

    ``outputs`` are the tokens that each prompt puts out undisturbed. The other arguments say what no
    view of an engine does, see ``scripted_explore.facts.Facts``. Raises ``RuleBroken``, or what the
    runtime raises.
    """
    facts = Facts(
        chunk_tokens=chunk_tokens,
        context_tokens=context_tokens,
        slots=slots,
        slot_requests=slot_requests,
        overlap=Capability.OVERLAP in t.capabilities,
        window_tokens=window_tokens,
        fifo=fifo,
        replicas=replicas,
    )
    yield from play(t, tuple(ops), outputs, facts)

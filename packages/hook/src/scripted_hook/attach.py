"""Putting the hook into a scheduler process, if the process was started for a session."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripted_core.gate.start import start_gate
from scripted_core.logs import set_log_context
from scripted_core.ports import bind_port
from scripted_core.wire.address import SessionAddress, address_from_env
from scripted_core.wire.progress import ProgressWriter
from scripted_core.wire.transport import EngineSideChannel

from scripted_hook.adapter import EngineAdapter
from scripted_hook.crash import register_stacks
from scripted_hook.pair.ports import FollowsPair, LeadsPair
from scripted_hook.pair.rank import PairFollower, PairLead
from scripted_hook.rank import LoneRank, Rank
from scripted_hook.rank_monitor import DrivingRank, SocketReceiver
from scripted_hook.rank_reporter import FollowingRank, SocketReports
from scripted_hook.ranks import RankedAdapter
from scripted_hook.scheduler_hook import ScriptedSchedulerHook
from scripted_hook.servant import WireServant


def maybe_init_scripted_scheduler_hook(
    scheduler: Any,
    *,
    adapter: EngineAdapter,
    tokenizer_recv_proxy: Any | None = None,
    http_poster: Any | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ScriptedSchedulerHook | None:
    """Attach a hook to ``scheduler``; ``None``, and nothing done, outside a session.

    The driver rank gets the wire, and what the others report; every rank gets stacks on request. An
    engine that is told to listen (``SCRIPTED_LISTEN``) lets test clients from elsewhere in: its driver
    rank starts the gate, and raises what keeps that from listening.
    """
    address = address_from_env(environ)
    if address is None:
        return None
    register_stacks(address)
    set_log_context(session=Path(address.directory).name)
    bind_port(scheduler, adapter)
    servant = None
    if adapter.is_driver:
        start_gate(address, environ=environ)
        servant = WireServant(
            channel=EngineSideChannel(address),
            progress=ProgressWriter(address.progress),
            adapter=lambda: adapter,
        )
    return ScriptedSchedulerHook(
        scheduler=scheduler,
        tokenizer_recv_proxy=tokenizer_recv_proxy,
        adapter=adapter,
        http_poster=http_poster,
        servant=servant,
        rank=_rank_of(adapter, address),
    )


def _rank_of(adapter: EngineAdapter, address: SessionAddress) -> Rank:
    if isinstance(adapter, LeadsPair):
        return PairLead(adapter=adapter, partner=adapter.partner)
    if isinstance(adapter, FollowsPair):
        return PairFollower(adapter=adapter, address=address)
    if not isinstance(adapter, RankedAdapter) or not adapter.rank:
        return LoneRank(adapter)
    if adapter.is_driver:
        return DrivingRank(adapter=adapter, ranks=adapter, receiver=SocketReceiver(address))
    return FollowingRank(adapter=adapter, rank=adapter.rank, sender=SocketReports(address))

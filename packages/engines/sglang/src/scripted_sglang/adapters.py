"""Which adapter a scheduler process gets: by its place among replicas, and by its side of a pair."""

from __future__ import annotations

from typing import Any

from scripted_core.views import Side
from scripted_core.wire.address import SessionAddress

from scripted_sglang import _compat
from scripted_sglang.adapter import SglangAdapter
from scripted_sglang.kv_watch import WatchedAdapter, can_be_watched
from scripted_sglang.pair import DecodeAdapter, PrefillAdapter
from scripted_sglang.ranks import RankPlace
from scripted_sglang.replica_link import ReplicaLink
from scripted_sglang.replicas import Replicas
from scripted_sglang.replicated import ReplicaAdapter, ReplicatedAdapter
from scripted_sglang.traffic import Traffic


def adapter_of(
    scheduler: Any, *, version: str, base_url: str, address: SessionAddress, traffic: Traffic
) -> SglangAdapter:
    """The adapter of one scheduler process."""
    side = _compat.side_of(scheduler)
    if side is Side.PREFILL:
        return PrefillAdapter(scheduler, version=version, base_url=base_url, traffic=traffic)
    if side is Side.DECODE:
        return DecodeAdapter(
            scheduler, version=version, base_url=base_url, address=address, traffic=traffic
        )
    place = RankPlace.of(scheduler)
    if place.replicas == 1:
        kind = WatchedAdapter if can_be_watched(scheduler, version=version) else SglangAdapter
        return kind(scheduler, version=version, base_url=base_url)
    if place.replica:
        link = ReplicaLink(address, replica=place.replica)
        return ReplicaAdapter(scheduler, version=version, link=link)
    replicas = Replicas(address, size=place.replicas)
    return ReplicatedAdapter(scheduler, version=version, base_url=base_url, replicas=replicas)

"""In which order waiting requests are considered for admission."""

from __future__ import annotations

from scripted_reference.args import SchedulePolicy
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req


def order_waiting(
    queue: list[Req], *, policy: SchedulePolicy, by_priority: bool, tree_cache: RadixCache
) -> None:
    """Sort the waiting queue in place.

    The sorts are stable, so that among equals the place in the queue decides: the order of arrival,
    with retracted requests queued anew behind those that waited when they were retracted. With
    `by_priority`, a higher priority goes first and a request without one last.
    """
    if len(queue) < 2:
        return
    if policy is SchedulePolicy.LPM:
        for req in queue:
            req.init_next_round_input()
        cached = {
            req.rid: len(tree_cache.match_prefix(req.fill_ids, extra_key=req.lora_path).indices)
            for req in queue
        }
        queue.sort(key=lambda req: -cached[req.rid])
    if by_priority:
        queue.sort(key=_priority_rank)


def _priority_rank(req: Req) -> tuple[bool, int]:
    if req.priority is None:
        return (True, 0)
    return (False, -req.priority)

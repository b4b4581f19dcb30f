"""What the adapters of both engines of a pair of servers add to ``EngineAdapter``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from scripted_core.views import PdStage

from scripted_hook.adapter import EngineAdapter
from scripted_hook.pair.partner import Partner


@runtime_checkable
class LeadsPair(Protocol):
    """The decode engine's: scripts run in its scheduler.

    It holds and releases the partner with itself, expects each request there before it posts it, posts
    operations on both sides, and adds the partner's pools to its own.
    """

    partner: Partner
    """The prefill engine, as far as it is seen from here."""


@runtime_checkable
class FollowsPair(EngineAdapter, Protocol):
    """The prefill engine's. ``is_driver`` is False, and the hook's ``step()`` waits while it is held."""

    def expect(self, rid: str) -> None:
        """This request is the script's own: it is not parked when it arrives."""
        ...

    def await_arrival(self, rid: str, *, cancelled: Callable[[], bool], wake_fd: int) -> bool:
        """Wait until a request is in the inbox; False when ``cancelled`` says so first.

        It is asked whenever there is input on ``wake_fd``, and after each look at the inbox.
        """
        ...

    def pair_stages(self) -> Mapping[str, PdStage]:
        """How far each live request is: queued, prefilling or transferring."""
        ...


@runtime_checkable
class CountsMessages(Protocol):
    """An adapter whose engine counts what it exchanges with the other engine of the pair.

    With it an iteration sees exactly what was sent before it: scripts are reproducible.
    """

    def messages_sent(self) -> int:
        """Messages sent to the other engine from the start on."""
        ...

    def await_messages(self, count: int) -> None:
        """Wait until so many of the other engine's messages are there; no deadline of its own."""
        ...

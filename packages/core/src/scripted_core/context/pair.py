"""``t.prefill``, ``t.decode`` and ``t.transfer``: the parts of a prefill/decode pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from scripted_core.capabilities import Capability
from scripted_core.context import memory
from scripted_core.errors import ConfigError
from scripted_core.handle import ScriptedReqHandle, require_handle
from scripted_core.ops import (
    Abort,
    AbortAll,
    Continue,
    ControlReceipt,
    Flush,
    OnSide,
    Pause,
    Transfer,
    TransferAction,
)
from scripted_core.pd_ports import PdPort, SidePort, TransferPort
from scripted_core.requests import require_int
from scripted_core.views import (
    KvChunkView,
    PauseMode,
    PdStage,
    QueueView,
    RequestStatus,
    RequestView,
    Side,
)

if TYPE_CHECKING:
    from scripted_core.context.api import ScriptedContext


def pair_port(context: ScriptedContext, what: str) -> PdPort:
    """The pair behind the context; ``CapabilityMissing`` when the engine is a single one."""
    context.require(Capability.PD_PREFILL, what)
    context.require(Capability.PD_DECODE, what)
    engine = context.engine
    if not isinstance(engine, PdPort):
        raise ConfigError(
            f"engine {engine.name!r} says that it is a prefill/decode pair, but shows no sides",
            hint="its adapter has to implement scripted_core.pd_ports.PdPort",
        )
    return engine


class PairSide:
    """One engine of the pair: control of it alone, and a look into it.

    What is posted takes effect in the coming iteration, as with ``t`` itself, which means both.
    """

    def __init__(self, context: ScriptedContext, side: Side) -> None:
        self.side = side
        self._context = context
        self._port: SidePort = pair_port(context, f"t.{side.value}").side(side)

    @property
    def pool(self) -> str:
        """The name of this engine's KV pool in ``t.engine.kv_pools``."""
        return self._port.pool

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force here."""
        return self._port.is_paused

    @property
    def queues(self) -> QueueView:
        """The rids waiting, running and mid-chunk here."""
        return self._port.queues()

    def view(self, handle: ScriptedReqHandle) -> RequestView | None:
        """This engine's own view of a request; ``None`` when it does not have it (any more)."""
        return self._port.request(require_handle(f"{self.side.value}.view", handle).rid)

    def status(self, handle: ScriptedReqHandle) -> RequestStatus:
        """``waiting`` or ``running`` here; ``unknown`` when this engine does not have it."""
        view = self._port.request(require_handle(f"{self.side.value}.status", handle).rid)
        return RequestStatus.UNKNOWN if view is None else view.status

    def engine_stats(self) -> dict[str, int]:
        """Figures of this engine's KV pool, in pages."""
        pool = self._context.engine.kv_pools[self.pool]
        return {
            "kv_pool_free": pool.available,
            "kv_pool_total": pool.total,
            "kv_pool_evictable": pool.evictable,
            "page_size": pool.page_size,
        }

    def pause_generation(
        self, *, mode: Literal["retract", "in_place"] | PauseMode
    ) -> ControlReceipt:
        """Pause this engine only."""
        try:
            chosen = PauseMode(mode)
        except ValueError:
            raise ConfigError(
                f"pause_generation: unknown mode {mode!r}",
                hint=f"one of {', '.join(repr(m.value) for m in PauseMode)}",
            ) from None
        return self._post(Pause(mode=chosen))

    def continue_generation(self) -> ControlReceipt:
        """Undo a pause of this engine."""
        return self._post(Continue())

    def abort(self, handle: ScriptedReqHandle) -> ControlReceipt:
        """Abort a request in this engine; the other one learns of it from here."""
        return self._post(Abort(rid=require_handle(f"{self.side.value}.abort", handle).rid))

    def abort_all(self) -> ControlReceipt:
        """Abort every request that this engine has."""
        return self._post(AbortAll())

    def flush_cache(self) -> ControlReceipt:
        """Empty this engine's prefix tree if it is idle; ``.ok`` says after a ``yield`` if it was."""
        return self._post(Flush())

    def exhaust_kv(
        self, *, leave_pages: int, evictable: Literal["count", "evict"] = "count"
    ) -> None:
        """Hold pages of this engine's KV pool until a request can get only ``leave_pages`` more."""
        memory.exhaust_kv(
            self._context, leave_pages=leave_pages, pool=self.pool, evictable=evictable
        )

    def _post(self, op: Pause | Continue | Abort | AbortAll | Flush) -> ControlReceipt:
        return self._context.acting_hook.post(OnSide(side=self.side, op=op))


class PairTransfer:
    """The KV transfer as an actor that a script can hold, step, delay, reorder, lose and repeat.

    The actor moves chunks between the prefill engine's iteration and the decode engine's, all that
    are due, unless it is held. What is posted takes effect in the coming iteration, before it moves.
    """

    def __init__(self, context: ScriptedContext) -> None:
        self._context = context
        self._port: TransferPort = pair_port(context, "t.transfer").transfer

    @property
    def pending(self) -> tuple[KvChunkView, ...]:
        """Chunks on their way, in the order in which they will be delivered."""
        return tuple(self._port.pending())

    def pending_of(self, handle: ScriptedReqHandle) -> tuple[KvChunkView, ...]:
        """Those of one request."""
        rid = require_handle("transfer.pending_of", handle).rid
        return tuple(chunk for chunk in self.pending if chunk.rid == rid)

    @property
    def is_held(self) -> bool:
        """Whether nothing is delivered but what is stepped."""
        return self._port.is_held

    @property
    def delivered(self) -> int:
        """Chunks that the decode engine has taken since the reset."""
        return self._port.delivered

    @property
    def rejected(self) -> tuple[str, ...]:
        """Why chunks were refused that came twice, too late or for nobody, oldest first."""
        return tuple(self._port.rejected)

    def stage(self, handle: ScriptedReqHandle) -> PdStage:
        """Where a request is between the two engines."""
        return self._port.stage(require_handle("transfer.stage", handle).rid)

    def hold(self) -> ControlReceipt:
        """Deliver nothing but what is stepped, until ``resume``."""
        return self._post(TransferAction.HOLD)

    def resume(self) -> ControlReceipt:
        """Deliver by itself again."""
        return self._post(TransferAction.RESUME)

    def step(self, chunks: int = 1) -> ControlReceipt:
        """While held: deliver the next ``chunks`` that are due, in the coming iteration."""
        require_int("transfer.step", "chunks", chunks, at_least=1)
        return self._post(TransferAction.STEP, count=chunks)

    def delay(self, chunk: KvChunkView | int, *, iterations: int) -> ControlReceipt:
        """Let a pending chunk wait for so many iterations more; others overtake it."""
        require_int("transfer.delay", "iterations", iterations, at_least=1)
        return self._post(TransferAction.DELAY, self._pending(chunk), count=iterations)

    def reorder(self, chunks: Sequence[KvChunkView] | Sequence[int]) -> ControlReceipt:
        """Deliver these pending chunks in this order, in the places that they have now."""
        if not isinstance(chunks, (list, tuple)) or not chunks:
            raise ConfigError(
                f"transfer.reorder: {chunks!r} is not a list of pending chunks",
                hint="give two or more of t.transfer.pending in the order that they shall have",
            )
        numbers = tuple(number for chunk in chunks for number in self._pending(chunk))
        if len(set(numbers)) != len(numbers):
            raise ConfigError(
                f"transfer.reorder: {list(numbers)} names a chunk twice", hint="name each once"
            )
        return self._post(TransferAction.REORDER, numbers)

    def drop(self, chunk: KvChunkView | int) -> ControlReceipt:
        """Lose a pending chunk: its request fails once the engines notice."""
        return self._post(TransferAction.DROP, self._pending(chunk))

    def duplicate(self, chunk: KvChunkView | int, *, iterations: int = 0) -> ControlReceipt:
        """Deliver a pending chunk a second time, ``iterations`` later than it would be."""
        require_int("transfer.duplicate", "iterations", iterations, at_least=0)
        return self._post(TransferAction.DUPLICATE, self._pending(chunk), count=iterations)

    def _pending(self, chunk: KvChunkView | int) -> tuple[int]:
        number = chunk.number if isinstance(chunk, KvChunkView) else chunk
        known = [one.number for one in self.pending]
        if number not in known:
            raise ConfigError(
                f"KV chunk {number!r} is not pending",
                hint=f"pending are {known}"
                if known
                else "nothing is pending; see t.transfer.hold()",
            )
        return (number,)

    def _post(
        self, action: TransferAction, chunks: tuple[int, ...] = (), *, count: int = 0
    ) -> ControlReceipt:
        return self._context.acting_hook.post(Transfer(action=action, chunks=chunks, count=count))

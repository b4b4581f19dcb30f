"""The seam between an engine's KV memory and who watches it: an optional protocol beside the adapter.

An engine that offers :class:`KvWatchPort` calls its watcher before and after every forward, with the
slots, tokens and positions of the batch, and shows its KV buffers as they lie in memory. The watcher is
``scripted-canary``; this module holds no more than what the two agree on. Arrays are NumPy arrays or
torch tensors, whichever the engine has; ``torch.as_tensor`` takes both without a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import msgspec

from scripted_core.kv_report import KvReport


@dataclass(frozen=True, kw_only=True)
class KvStorageView:
    """One pool of KV slots as it lies in memory.

    Attributes:
        name: its name in ``kv_pools``; ``draft`` for one that no pool of the engine is named after.
        buffers: arrays ``[slots, ...]``, contiguous: the keys and the values of each layer.
        mapping: ``int64[full slots]``, this pool's slot beside each full slot, 0 where there is none;
            ``None`` where they are the same.
        window: tokens that its layers see, the newest one included; ``None`` for all.
    """

    name: str
    buffers: tuple[Any, ...]
    mapping: Any | None = None
    window: int | None = None

    @property
    def kind(self) -> str:
        """The name without the rank or side: ``full`` of ``full@prefill``."""
        return self.name.partition("@")[0]


@dataclass(frozen=True, kw_only=True)
class KvGroup:
    """Pools that the same forwards write, and the table through which requests reach their slots.

    Attributes:
        name: of the group, which is that of its first storage.
        table: ``int[rows, positions]``, the engine's own, not a copy: the full slot of each token.
        storages: the pools.
    """

    name: str
    table: Any
    storages: tuple[KvStorageView, ...]


@dataclass(kw_only=True)
class KvBatch:
    """One forward: request ``i`` computes positions ``starts[i]`` up to ``starts[i] + counts[i]``.

    Attributes:
        requests: the engine's own objects. The same object is the same request, whatever its row.
        rids: their ids.
        rows: ``int64[batch]``, the row of each in the group's table.
        starts: ``int64[batch]``, how many of its slots hold KV already.
        longest: the largest of ``starts``, as a plain number.
        counts: new tokens of each, plain numbers; ``None`` when it is one each.
        input_ids: ``int64[tokens]``, what the model is fed, request after request. Who perturbs puts
            another array here, and the engine feeds that.
        out_slots: ``int64[tokens]``, the full slot that each is written to.
        tokens_of: tokens of request ``i`` from a position on up to another, as far as the engine knows
            them: those of its prompt and its output.
        next_known: whether what ``after_forward`` is told is what each request is fed next.
    """

    requests: Sequence[Any]
    rids: Callable[[], Sequence[str]]
    rows: Any
    starts: Any
    longest: int
    counts: Sequence[int] | None
    input_ids: Any
    out_slots: Any
    tokens_of: Callable[[int, int, int], Sequence[int]]
    next_known: bool


@dataclass(frozen=True, kw_only=True)
class CachedSlots:
    """What the prefix tree holds of one storage, ``int64[n]`` each.

    Attributes:
        slots: of this storage.
        tokens: the token of each.
        positions: the position of each.
        previous: the index in these arrays of the position before; -1 at the first position, -2 where
            that slot is gone.
    """

    slots: Any
    tokens: Any
    positions: Any
    previous: Any


class SentSlots(msgspec.Struct, frozen=True):
    """What a watcher knows of slots whose KV is sent to another process; no engine looks into it.

    Attributes:
        scheme: what it is made of. A watcher takes in only what was made as its own would be.
        storages: for each storage of the group, columns of raw bytes with an entry for each slot.
    """

    scheme: str
    storages: tuple[tuple[bytes, ...], ...]


class KvWatcher(Protocol):
    """Who is told of forwards and of copies. Called on the scheduler's own thread."""

    @property
    def violations_total(self) -> int:
        """Violations since the start, those included that are not kept any more."""
        ...

    @property
    def verified_slots_total(self) -> int:
        """Slots that were verified since the start."""
        ...

    def report(self) -> KvReport:
        """What was found so far, outcomes included that nobody has looked at yet."""
        ...

    def before_forward(self, group: str, batch: KvBatch) -> None:
        """A batch is prepared, and its KV is not written yet."""
        ...

    def after_forward(self, group: str, batch: KvBatch, next_tokens: Any | None) -> None:
        """Its KV is written. ``next_tokens`` is ``int64[batch]`` where this forward chose any."""
        ...

    def take(self, group: str, slots: Any) -> Any:
        """The KV of these full slots is copied out: return what is known of them."""
        ...

    def put(self, group: str, slots: Any, taken: Any) -> None:
        """KV that was copied out, of this or another group, was copied into these full slots."""
        ...

    def send(self, group: str, slots: Any) -> SentSlots:
        """The KV of these full slots goes to another process: return what is to go with it."""
        ...

    def receive(self, group: str, slots: Any, sent: SentSlots | None) -> None:
        """KV came from another process into these full slots; ``None``: nobody watches there.

        Raises ``ConfigError`` for what this watcher can do nothing with.
        """
        ...


@runtime_checkable
class KvWatchPort(Protocol):
    """What an engine's port offers beside its adapter protocol when its KV can be watched."""

    @property
    def kv_watcher(self) -> KvWatcher | None:
        """Who watches now."""
        ...

    def kv_watch_settings(self) -> Mapping[str, Any]:
        """The engine arguments ``kv_canary``, ``kv_canary_real_data``, ``kv_canary_sweep_interval``."""
        ...

    def kv_groups(self) -> Sequence[KvGroup]:
        """Every group of pools of this process."""
        ...

    def watch_kv(self, watcher: KvWatcher | None) -> None:
        """Tell ``watcher`` of every forward and copy from now on; ``None`` ends it."""
        ...

    def cached_slots(self, storage: str) -> CachedSlots | None:
        """What the prefix tree holds of a storage now; ``None`` where there is no tree."""
        ...

    def forwards_total(self, group: str) -> int:
        """Forwards of a group's model since the start, counted by the engine itself."""
        ...

"""What is kept beside the slots of one pool, and how slots are compared with it."""

from __future__ import annotations

from dataclasses import dataclass

from scripted_core.kv_watch import CachedSlots, KvStorageView

from scripted_canary.arrays import Array, Arrays
from scripted_canary.hashing import POSITION_SHIFT, SEED, ByteHash, head_of, word_of
from scripted_canary.settings import RealData

_TOKEN_MASK = (1 << POSITION_SHIFT) - 1


@dataclass(frozen=True)
class Known:
    """What is known of slots that are copied somewhere else: it goes along with them."""

    heads: Array
    chains: Array
    data: Array


class SlotShadow:
    """Beside each slot: its token and position, the hash of its prefix, and that of its bytes.

    The latter two are also kept as their ``sums``: what is in a slot is as it should be when its sum,
    less the hash of its bytes as they are now, is the chain that belongs there. One comparison tells
    of both hashes, and a change of one of them always shows.

    Attributes:
        heads, chains, sums: ``int64[slots]``.
        buffers: the pool's own memory, ``uint8[slots, bytes]`` each.
    """

    def __init__(self, view: KvStorageView, *, real_data: RealData, arrays: Arrays) -> None:
        self.view = view
        self.arrays = arrays
        self.buffers = tuple(arrays.as_bytes(buffer) for buffer in view.buffers)
        self.num_slots = len(self.buffers[0])
        self.hashes_data = real_data is not RealData.NONE
        self.byte_hash = ByteHash(view.buffers, real_data=real_data, arrays=arrays)
        self._mapping = None if view.mapping is None else arrays.mirror(view.mapping)
        self.heads, self.chains, self.sums = (arrays.zeros(self.num_slots) for _ in range(3))

    @property
    def mapping(self) -> Array | None:
        """This pool's slot beside each full one, as it is now; ``None`` where they are the same."""
        return None if self._mapping is None else self._mapping.refresh()

    def own(self, full_slots: Array) -> Array:
        """This pool's slots beside full slots."""
        mapping = self.mapping
        return full_slots if mapping is None else self.arrays.take(mapping, full_slots)

    def record(self, full_slots: Array, heads: Array, chains: Array) -> None:
        """A forward has written these slots."""
        slots = self.own(full_slots)
        sums = chains + self.byte_hash.of(slots) if self.hashes_data else chains
        self._put(slots, heads, chains, sums)

    def take(self, full_slots: Array) -> Known:
        """What is known of slots."""
        slots = self.own(full_slots)
        heads, chains, sums = (
            self.arrays.take(values, slots) for values in (self.heads, self.chains, self.sums)
        )
        return Known(heads, chains, sums - chains)

    def put(self, full_slots: Array, known: Known) -> None:
        """The contents of other slots were copied into these."""
        whole = self.arrays.whole
        chains = whole(known.chains)
        self._put(self.own(full_slots), whole(known.heads), chains, chains + whole(known.data))

    def _put(self, slots: Array, heads: Array, chains: Array, sums: Array) -> None:
        put = self.arrays.put
        put(self.heads, slots, heads)
        put(self.chains, slots, chains)
        put(self.sums, slots, sums)

    def held(self, slots: Array) -> tuple[Array, Array | None]:
        """The sums of slots, and the hashes of their bytes as they are now, if those are hashed."""
        hashes = self.byte_hash.of(slots) if self.hashes_data else None
        return self.arrays.take(self.sums, slots), hashes

    def expected_in_tree(self, cached: CachedSlots, growth: Array) -> Array:
        """The chain of each slot of the prefix tree, from that of the slot before it."""
        arrays = self.arrays
        slots, previous = arrays.whole(cached.slots), arrays.whole(cached.previous)
        chains = arrays.take(self.chains, slots)
        # The first position has none before it, which is entry -1.
        before = arrays.choose(previous >= 0, arrays.take(chains, previous.clip(min=0)), SEED)
        heads = head_of(arrays.whole(cached.tokens), arrays.whole(cached.positions))
        # Without the slot before it nothing can be said of a chain: it is taken as it is.
        return arrays.choose(previous >= -1, before * growth + word_of(heads), chains)


def token_in(head: int) -> int:
    """The token of a packed word."""
    return head & _TOKEN_MASK


def position_in(head: int) -> int:
    """The position of a packed word."""
    return head >> POSITION_SHIFT

"""What is kept beside the slots of one pool, and how slots are compared with it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scripted_core.kv_watch import CachedSlots, KvStorageView

from scripted_canary.hashing import POSITION_SHIFT, SEED, ByteHash, head_of, word_of
from scripted_canary.settings import RealData

_TOKEN_MASK = (1 << POSITION_SHIFT) - 1


@dataclass(frozen=True)
class Known:
    """What is known of slots that are copied somewhere else: it goes along with them."""

    heads: torch.Tensor
    chains: torch.Tensor
    data: torch.Tensor


class SlotShadow:
    """Beside each slot: its token and position, the hash of its prefix, and that of its bytes."""

    def __init__(self, view: KvStorageView, *, real_data: RealData) -> None:
        self.view = view
        buffers = [torch.as_tensor(buffer) for buffer in view.buffers]
        self.device = buffers[0].device
        self.buffers = tuple(buffers)
        self.num_slots = len(buffers[0])
        self.hashes_data = real_data is not RealData.NONE
        self.byte_hash = ByteHash(buffers, real_data=real_data)
        self.mapping = None if view.mapping is None else torch.as_tensor(view.mapping)

        def empty() -> torch.Tensor:
            return torch.zeros(self.num_slots, dtype=torch.int64, device=self.device)

        self.heads, self.chains, self.data = empty(), empty(), empty()

    def own(self, full_slots: torch.Tensor) -> torch.Tensor:
        """This pool's slots beside full slots."""
        if self.mapping is None:
            return full_slots
        mapped: torch.Tensor = self.mapping[full_slots]
        return mapped

    def record(self, full_slots: torch.Tensor, heads: torch.Tensor, chains: torch.Tensor) -> None:
        """A forward has written these slots."""
        slots = self.own(full_slots)
        self.heads.index_copy_(0, slots, heads)
        self.chains.index_copy_(0, slots, chains)
        if self.hashes_data:
            self.data.index_copy_(0, slots, self.byte_hash.of(slots))

    def take(self, full_slots: torch.Tensor) -> Known:
        """What is known of slots."""
        slots = self.own(full_slots)
        return Known(self.heads[slots], self.chains[slots], self.data[slots])

    def put(self, full_slots: torch.Tensor, known: Known) -> None:
        """The contents of other slots were copied into these."""
        slots = self.own(full_slots)
        self.heads[slots] = known.heads.to(self.device)
        self.chains[slots] = known.chains.to(self.device)
        self.data[slots] = known.data.to(self.device)

    def broken_chains(self, slots: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Which slots were written for another token, position or prefix."""
        return self.chains.index_select(0, slots) != expected

    def broken_data(self, slots: torch.Tensor) -> torch.Tensor:
        """Which slots have other bytes than a forward, or a copy, has left there."""
        return self.byte_hash.of(slots) != self.data.index_select(0, slots)

    def expected_in_tree(self, cached: CachedSlots, growth: torch.Tensor) -> torch.Tensor:
        """The chain of each slot of the prefix tree, from that of the slot before it."""
        slots, previous = self._cached(cached.slots), self._cached(cached.previous)
        chains = self.chains.index_select(0, slots)
        before = torch.where(previous >= 0, chains[previous.clamp(min=0)], SEED)
        heads = head_of(self._cached(cached.tokens), self._cached(cached.positions))
        # Without the slot before it nothing can be said of a chain: it is taken as it is.
        return torch.where(previous >= -1, before * growth + word_of(heads), chains)

    def _cached(self, values: object) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64, device=self.device)


def token_in(head: int) -> int:
    """The token of a packed word."""
    return head & _TOKEN_MASK


def position_in(head: int) -> int:
    """The position of a packed word."""
    return head >> POSITION_SHIFT

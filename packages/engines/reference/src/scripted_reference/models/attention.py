"""Attention of one group of lanes, over contexts that are scattered in the paged KV storage.

What a lane computes must not depend on how long its neighbours' contexts are. Each context is padded to
whole blocks of keys with the reserved page, which is zero, and the padding is masked. The products and
sums of keys are over one block each, so that no kernel's shape depends on a length; the maximum is exact
in any order. Values are added up by torch's embedding bag, which fetches one row after the other and so
needs no copy of them, and has a padded context end in zeros times zeros, which change no bit.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from scripted_reference.hybrid_memory import WindowStorage
from scripted_reference.memory import IntArray, ReqToTokenPool
from scripted_reference.models.kv_storage import LayerKV
from scripted_reference.models.lanes import LANES, SPARE, Lanes

KEY_BLOCK: Final = 64
"""Keys in a block."""

_VISIBLE: Final = np.float32(0.0)
_HIDDEN: Final = np.float32(-np.inf)

_SUM: Final = 0
"""The mode of an embedding bag in which it adds up."""


class HeadMap:
    """Which key head each query head reads: that of its share of the query heads, in order.

    Attributes:
        spread: `[heads, kv_heads, 1]`, the softmax's scale where a query head meets its key head,
            and zero elsewhere. With it all heads of a lane are one matrix; a product with each key
            head by itself would be too small to be fast.
        key_head: `int64[heads]`.
    """

    def __init__(
        self, *, num_heads: int, num_kv_heads: int, head_dim: int, device: torch.device
    ) -> None:
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.key_head: IntArray = np.arange(num_heads) // (num_heads // num_kv_heads)
        own = torch.eye(num_kv_heads)[torch.from_numpy(self.key_head)]
        self.spread = (own.unsqueeze(2) * head_dim**-0.5).to(device)


class Workspace:
    """The buffers for contexts of so many blocks, and the views of them that are needed.

    Making a view costs as much as a small product; so they are made once, not in each layer.
    """

    def __init__(self, blocks: int, heads: HeadMap, *, device: torch.device) -> None:
        self.blocks = blocks
        key_size = heads.num_kv_heads * heads.head_dim
        self.keys = torch.empty((blocks * LANES * KEY_BLOCK, key_size), device=device)
        by_block = self.keys.view(blocks, LANES, KEY_BLOCK, key_size)
        self.key_blocks = by_block.transpose(2, 3).unbind(0)
        self.scores = torch.empty((blocks, LANES, heads.num_heads, KEY_BLOCK), device=device)
        self.score_blocks = self.scores.unbind(0)
        self.scores_by_lane = self.scores.permute(1, 2, 0, 3)
        weights = torch.empty((LANES, heads.num_heads, blocks, KEY_BLOCK), device=device)
        self.weights = weights
        self.weight_blocks = weights.unbind(2)
        self.flat_weights = weights.view(-1)
        # Where each head's share of the flat weights begins.
        starts = np.arange(0, weights.numel(), blocks * KEY_BLOCK)
        self.bags = torch.from_numpy(starts).to(device)


class Contexts:
    """Finds the contexts of groups of lanes."""

    def __init__(
        self,
        req_to_token_pool: ReqToTokenPool,
        *,
        heads: HeadMap,
        device: torch.device,
        window: WindowStorage | None = None,
    ) -> None:
        self._table = req_to_token_pool.req_to_token
        self._heads = heads
        self._device = device
        self._window = window
        # Contexts grow slowly: the next group mostly needs what the last one needed.
        self._workspace = Workspace(1, heads, device=device)
        self._columns: IntArray = np.arange(self._table.shape[1] + KEY_BLOCK)

    def plan(self, group: Lanes) -> ContextPlan:
        """Return where the lanes of a group write their KV and find their contexts."""
        visible = self._visible(group)
        return self._plan(visible, slots=self._slots(group, visible), locs=group.locs)

    def window_plan(self, group: Lanes) -> ContextPlan:
        """Return the same for the layers with a sliding window, whose KV is in window slots."""
        window = self._window
        assert window is not None, "the model has layers with a sliding window"
        visible = self._visible(group)
        visible &= self._columns[: visible.shape[1]] > group.positions[:, None] - window.length
        locs = np.where(group.locs == SPARE, SPARE, window.mapping[group.locs])
        slots = window.mapping[self._slots(group, visible)]
        return self._plan(visible, slots=slots, locs=locs)

    def _visible(self, group: Lanes) -> npt.NDArray[np.bool_]:
        """Return `bool[LANES, padded_len]`: the positions up to each lane's own."""
        blocks = -(-(int(group.positions.max()) + 1) // KEY_BLOCK)
        visible: npt.NDArray[np.bool_] = (
            self._columns[: blocks * KEY_BLOCK] <= group.positions[:, None]
        )
        return visible

    def _plan(
        self, visible: npt.NDArray[np.bool_], *, slots: IntArray, locs: IntArray
    ) -> ContextPlan:
        blocks = visible.shape[1] // KEY_BLOCK
        if self._workspace.blocks != blocks:
            self._workspace = Workspace(blocks, self._heads, device=self._device)
        # Blocks first: wherever a block lies, its strides are the same.
        by_block = slots.reshape(LANES, blocks, KEY_BLOCK).transpose(1, 0, 2).reshape(-1)
        mask = np.where(visible, _VISIBLE, _HIDDEN)
        mask = mask.reshape(LANES, blocks, 1, KEY_BLOCK).transpose(1, 0, 2, 3)
        heads = self._heads
        value_rows = (slots * heads.num_kv_heads)[:, None] + heads.key_head[:, None]
        written = np.flatnonzero(locs != SPARE)
        return ContextPlan(
            heads,
            self._workspace,
            slots=torch.from_numpy(by_block).to(self._device),
            mask=torch.from_numpy(mask).to(self._device),
            value_rows=torch.from_numpy(value_rows.reshape(-1)).to(self._device),
            written=torch.from_numpy(written).to(self._device),
            locs=torch.from_numpy(locs[written]).to(self._device),
        )

    def _slots(self, group: Lanes, visible: npt.NDArray[np.bool_]) -> IntArray:
        """Return `int64[LANES, padded_len]`, 0 where there is nothing to be seen."""
        padded_len = visible.shape[1]
        width = min(padded_len, self._table.shape[1])
        slots: IntArray = self._table[group.rows, :width]
        slots *= visible[:, :width]
        if group.rows[-1] == SPARE:
            slots[group.rows == SPARE] = 0
        if width < padded_len:
            slots = np.pad(slots, ((0, 0), (0, padded_len - width)))
        return slots


class ContextPlan:
    """Where the lanes of one group write their KV and find their contexts: the same in every layer."""

    def __init__(
        self,
        heads: HeadMap,
        workspace: Workspace,
        *,
        slots: torch.Tensor,
        mask: torch.Tensor,
        value_rows: torch.Tensor,
        written: torch.Tensor,
        locs: torch.Tensor,
    ) -> None:
        self._heads = heads
        self._workspace = workspace
        self._slots = slots
        self._mask = mask
        self._value_rows = value_rows
        self._written = written
        self._locs = locs
        self._writes_all = len(locs) == LANES

    def store(self, kv: LayerKV, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write the lanes' keys and values, `[LANES, kv_heads * head_dim]` each, to their slots."""
        if not self._writes_all:
            keys = keys.index_select(0, self._written)
            values = values.index_select(0, self._written)
        kv.keys.index_copy_(0, self._locs, keys)
        kv.values.index_copy_(0, self._locs, values)

    def attend(self, queries: torch.Tensor, kv: LayerKV) -> torch.Tensor:
        """Return the heads' outputs, `[LANES, heads * head_dim]`, for `[LANES, heads, head_dim]`."""
        heads, space = self._heads, self._workspace
        torch.index_select(kv.keys, 0, self._slots, out=space.keys)
        spread = (queries.unsqueeze(2) * heads.spread).view(LANES, heads.num_heads, -1)
        for scores, keys in zip(space.score_blocks, space.key_blocks, strict=True):
            torch.bmm(spread, keys, out=scores)
        space.scores.add_(self._mask)
        space.scores.sub_(space.scores.amax(dim=(0, 3), keepdim=True))
        torch.exp(space.scores_by_lane, out=space.weights)
        first, *others = space.weight_blocks
        total = first.sum(dim=2, keepdim=True)
        for weights in others:
            total.add_(weights.sum(dim=2, keepdim=True))
        summed = torch.embedding_bag(
            kv.head_values,
            self._value_rows,
            space.bags,
            mode=_SUM,
            per_sample_weights=space.flat_weights,
        )[0]
        return summed.view(LANES, heads.num_heads, -1).div_(total).view(LANES, -1)

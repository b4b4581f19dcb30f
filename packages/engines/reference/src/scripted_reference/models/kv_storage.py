"""The paged KV storage of a transformer: what every layer remembers of the token in a slot."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import torch

from scripted_reference.hybrid_memory import WindowStorage
from scripted_reference.memory import IntArray

FloatArray = npt.NDArray[np.float32]


class PagedKV:
    """Keys and values of all layers, addressed by slot.

    Layers with a sliding window have window slots; those behind the others' full slots are found in the
    mapping of `window`.

    Attributes:
        keys: for each layer `float32[slots, kv_heads, head_dim]`, rotated. The slots of the reserved
            page stay zero.
        values: the same of the values.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        device: torch.device,
        window: WindowStorage | None = None,
        window_layers: Collection[int] = (),
    ) -> None:
        self._mapping = None if window is None else window.mapping
        self._has_window = [layer in window_layers for layer in range(num_layers)]

        def zeros(layer: int) -> torch.Tensor:
            slots = num_slots
            if self._has_window[layer]:
                assert window is not None, "a layer with a window has a storage for it"
                slots = window.num_slots
            return torch.zeros((slots, num_kv_heads, head_dim), device=device)

        self.keys = [zeros(layer) for layer in range(num_layers)]
        self.values = [zeros(layer) for layer in range(num_layers)]
        self._layers = [
            LayerKV(keys.flatten(start_dim=1), values.flatten(start_dim=1), num_kv_heads)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def buffers(self, *, in_window: bool) -> tuple[torch.Tensor, ...]:
        """Return keys and values of each layer with a sliding window, or of each without."""
        return tuple(
            part[layer]
            for layer, has_window in enumerate(self._has_window)
            if has_window == in_window
            for part in (self.keys, self.values)
        )

    def layer(self, index: int) -> LayerKV:
        """Return one layer's storage, the same memory."""
        return self._layers[index]

    def read(self, slots: int | IntArray) -> FloatArray:
        """Return a copy of a full slot, and of the window slot beside it where a layer has windows.

        Of a slot it is `float32[2, layers, kv_heads, head_dim]`: its keys, its values. Of several slots
        it is `float32[2, layers, slots, kv_heads, head_dim]`.
        """
        content = torch.stack(
            [
                torch.stack(
                    [stored[self._where(slots, layer)] for layer, stored in enumerate(part)]
                )
                for part in (self.keys, self.values)
            ]
        )
        copied: FloatArray = content.cpu().numpy()
        return copied

    def write(self, slots: int | IntArray, content: FloatArray) -> None:
        """Overwrite a slot, or several, in all layers with what `read` returned of it or of others."""
        given = torch.from_numpy(np.array(content, dtype=np.float32))
        for part, new in zip((self.keys, self.values), given.unbind(0), strict=True):
            for layer, stored in enumerate(part):
                stored[self._where(slots, layer)] = new[layer].to(stored.device)

    def _where(self, slots: int | IntArray, layer: int) -> int | torch.Tensor:
        if self._mapping is not None and self._has_window[layer]:
            slots = int(self._mapping[slots]) if isinstance(slots, int) else self._mapping[slots]
        return slots if isinstance(slots, int) else torch.from_numpy(slots)


class LayerKV:
    """One layer's keys and values, seen in the ways in which they are read.

    Attributes:
        keys: `float32[slots, kv_heads * head_dim]`.
        values: the same of the values.
        head_values: `float32[slots * kv_heads, head_dim]`, the same memory as `values`.
    """

    __slots__ = ("head_values", "keys", "values")

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, num_kv_heads: int) -> None:
        self.keys = keys
        self.values = values
        self.head_values = values.view(values.shape[0] * num_kv_heads, -1)

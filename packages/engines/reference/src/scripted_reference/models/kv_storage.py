"""The paged KV storage of a transformer: what every layer remembers of the token in a slot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from scripted_reference.memory import IntArray

FloatArray = npt.NDArray[np.float32]


class PagedKV:
    """Keys and values of all layers, addressed by slot.

    Attributes:
        keys: `float32[layers, slots, kv_heads, head_dim]`, rotated. The slots of the reserved page
            stay zero.
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
    ) -> None:
        shape = (num_layers, num_slots, num_kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=torch.float32, device=device)
        self.values = torch.zeros(shape, dtype=torch.float32, device=device)
        self._layers = [
            LayerKV(keys.flatten(start_dim=1), values.flatten(start_dim=1), num_kv_heads)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]

    def layer(self, index: int) -> LayerKV:
        """Return one layer's storage, the same memory."""
        return self._layers[index]

    def read(self, slots: int | IntArray) -> FloatArray:
        """Return a copy of a slot, `float32[2, layers, kv_heads, head_dim]`: its keys, its values.

        Of several slots, `float32[2, layers, slots, kv_heads, head_dim]`.
        """
        where = slots if isinstance(slots, int) else torch.from_numpy(slots)
        content = torch.stack((self.keys[:, where], self.values[:, where]))
        copied: FloatArray = content.cpu().numpy()
        return copied

    def write(self, slots: int | IntArray, content: FloatArray) -> None:
        """Overwrite a slot, or several, in all layers with what `read` returned of it or of others."""
        keys, values = torch.from_numpy(np.array(content, dtype=np.float32)).unbind(0)
        where = slots if isinstance(slots, int) else torch.from_numpy(slots)
        self.keys[:, where] = keys.to(self.keys.device)
        self.values[:, where] = values.to(self.values.device)


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

"""Tensors as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def as_array(tensor: Any) -> IntArray:
    """A 1-D integer tensor of any device as an array."""
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.int64)

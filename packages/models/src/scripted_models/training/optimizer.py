"""The optimizer: Muon for the matrices of the layers, Adam for the embedding and the norms.

Source of Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024. It is
written out here because PyTorch's own computes in bfloat16, which takes longer than the whole rest
of a step on a CPU without instructions for it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from scripted_models.training.model import Weights

_MATRIX_RATE: Final = 0.01
_VECTOR_RATE: Final = 0.01
_MOMENTUM: Final = 0.95
_WARMUP_STEPS: Final = 20
_DECAY_SHARE: Final = 0.4
_LARGEST_GRADIENT_NORM: Final = 1.0
_NEWTON_SCHULZ: Final = (3.4445, -4.775, 2.0315)
_NEWTON_SCHULZ_STEPS: Final = 5


class Optimizer:
    """Updates `weights` in place over `steps` steps.

    The rates rise for a few steps, stay, and fall to 0 over the last part.
    """

    def __init__(self, weights: Weights, *, steps: int) -> None:
        self._matrices = [w for name, w in weights.items() if name.endswith("_proj.weight")]
        self._momenta = [torch.zeros_like(matrix) for matrix in self._matrices]
        vectors = [w for name, w in weights.items() if not name.endswith("_proj.weight")]
        self._adam = torch.optim.Adam(vectors, lr=_VECTOR_RATE, betas=(0.9, 0.98))
        self._parameters = list(weights.values())
        self._steps = steps
        self._done = 0

    def step(self) -> None:
        """Apply the gradients and clear them."""
        torch.nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT_NORM)
        warm = min(1.0, (self._done + 1) / _WARMUP_STEPS)
        rate = warm * min(1.0, (1.0 - self._done / self._steps) / _DECAY_SHARE)
        self._adam.param_groups[0]["lr"] = _VECTOR_RATE * rate
        self._adam.step()
        with torch.no_grad():
            self._step_matrices(_MATRIX_RATE * rate)
        for parameter in self._parameters:
            parameter.grad = None
        self._done += 1

    def _step_matrices(self, rate: float) -> None:
        for matrix, momentum in zip(self._matrices, self._momenta, strict=True):
            momentum.lerp_(matrix.grad, 1.0 - _MOMENTUM)
            update = orthogonalize(torch.lerp(matrix.grad, momentum, _MOMENTUM))
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            matrix.sub_(update, alpha=rate * scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return `matrix` with its singular values moved close to 1, by Newton-Schulz iteration."""
    first, second, third = _NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    update = matrix.T if tall else matrix
    update = update / (update.norm() + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = update @ update.T
        update = first * update + (second * gram + third * gram @ gram) @ update
    return update.T if tall else update

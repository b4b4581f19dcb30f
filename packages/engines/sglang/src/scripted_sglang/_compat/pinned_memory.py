"""LoRA of SGLang asks for pinned memory, which torch has only beside an accelerator: do without it.

Its layers and its `torch_native` backend pin small tensors for a copy to a GPU, also where there is
none, and torch then raises. Seen up to 0.5.23; see `docs/findings/sglang-lora-needs-pinned-memory.md`
in the repository.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from scripted_sglang._compat.as_shipped import is_as_shipped

_MAKERS: Final = ("tensor", "zeros", "ones", "empty", "full")


def do_without_pinned_memory(*args: Any, **kwargs: Any) -> None:
    """BEFORE ``LoRAManager.__init__``: in a process without an accelerator, nothing is pinned."""
    import torch

    if is_as_shipped() or torch.accelerator.is_available():
        return
    torch.Tensor.pin_memory = _stay
    for name in _MAKERS:
        setattr(torch, name, _unpinned(getattr(torch, name)))


def _stay(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return tensor


def _unpinned(make: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(make)
    def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        return make(*args, **kwargs)

    return made

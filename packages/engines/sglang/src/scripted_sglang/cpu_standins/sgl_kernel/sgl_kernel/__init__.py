"""Stand-in for sglang-kernel on a CPU: one operator works, the others raise by name.

SGLang imports operators by name when its modules load, so every name can be imported here; calling
one is what fails. There are no submodules: importing one is an `ImportError`, which SGLang meets
with a fallback of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

__version__ = "0.0.0"

IS_STANDIN = True


def copy_all_layer_kv_cache_cpu(
    data_ptrs: torch.Tensor,
    row_bytes: torch.Tensor,
    targets: torch.Tensor,
    sources: torch.Tensor,
    *rest: object,
) -> None:
    """Copy whole KV slots from `sources` to `targets` in every layer's buffer.

    `data_ptrs` holds the addresses of the buffers, `row_bytes` the bytes of one slot in each. All
    sources are read before a target is written, so the two may overlap.
    """
    import ctypes

    to_rows = targets.tolist()
    from_rows = sources.tolist()
    for base, size in zip(data_ptrs.tolist(), row_bytes.tolist(), strict=True):
        rows = [ctypes.string_at(base + row * size, size) for row in from_rows]
        for row, content in zip(to_rows, rows, strict=True):
            ctypes.memmove(base + row * size, content, size)


class _Missing:
    """An operator that this stand-in does not have."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"{self.__name__} was called, but sgl_kernel is a stand-in here: install sglang-kernel,"
            " or choose engine arguments that do not need this operator"
        )

    def __repr__(self) -> str:
        return f"<stand-in for {self.__name__}>"


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _Missing(f"{__name__}.{name}")

"""What kernel definitions use: decorators that keep the function and refuse to launch it.

Two of SGLang's kernels are launched all the same, as host code: see `_page_kernels`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from triton._page_kernels import ON_CPU


class JITFunction:
    """A kernel that was defined; launching it raises `NotImplementedError` with its name.

    Those of SGLang that `_page_kernels` has are run instead.
    """

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__: str = getattr(fn, "__name__", "kernel")
        self.__qualname__ = getattr(fn, "__qualname__", self.__name__)
        self.__module__: str = getattr(fn, "__module__", __name__)
        self.__doc__ = fn.__doc__

    def _refuse(self) -> NoReturn:
        raise NotImplementedError(
            f"triton kernel {self.__module__}.{self.__qualname__} was launched, but triton is a"
            " stand-in here: install triton, or choose engine arguments that need no kernel"
        )

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        self._refuse()

    def __getitem__(self, grid: object) -> Callable[..., Any]:
        if not self.__module__.startswith("sglang.") or self.__name__ not in ON_CPU:
            self._refuse()
        return ON_CPU[self.__name__]


def jit(fn: Callable[..., Any] | None = None, **options: object) -> Any:
    """Turn a function into a `JITFunction`, as a bare decorator or with options."""
    if fn is None:
        return JITFunction
    return JITFunction(fn)


class Config:
    """The arguments of one tuning configuration, kept and not interpreted."""

    def __init__(
        self,
        kwargs: dict[str, Any] | None = None,
        num_warps: int = 4,
        num_stages: int = 2,
        **options: object,
    ) -> None:
        self.kwargs = kwargs or {}
        self.num_warps = num_warps
        self.num_stages = num_stages
        self.options = options


def _keep(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn


def autotune(*args: object, **options: object) -> Callable[..., Any]:
    """Return a decorator that keeps what it is given."""
    return _keep


def heuristics(*args: object, **options: object) -> Callable[..., Any]:
    """Return a decorator that keeps what it is given."""
    return _keep

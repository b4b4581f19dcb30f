"""What kernel definitions use: decorators that keep the function and refuse to launch it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn


class JITFunction:
    """A kernel that was defined; launching it raises `NotImplementedError` with its name."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", "kernel")
        self.__qualname__ = getattr(fn, "__qualname__", self.__name__)
        self.__module__ = getattr(fn, "__module__", __name__)
        self.__doc__ = fn.__doc__

    def _refuse(self) -> NoReturn:
        raise NotImplementedError(
            f"triton kernel {self.__module__}.{self.__qualname__} was launched, but triton is a"
            " stand-in here: install triton, or choose engine arguments that need no kernel"
        )

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        self._refuse()

    def __getitem__(self, grid: object) -> NoReturn:
        self._refuse()


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

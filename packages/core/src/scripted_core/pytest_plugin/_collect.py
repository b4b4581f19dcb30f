"""Turning a generator function into something that pytest collects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def plain_twin(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the name, signature and marks of ``function`` that is no generator function.

    pytest reads its signature (through ``__wrapped__``) and never calls it.
    """

    @functools.wraps(function)
    def twin(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a scripted test is run by the scripted plugin")

    return twin

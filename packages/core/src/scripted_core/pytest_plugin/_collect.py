"""Turning a generator function into something that pytest collects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest


def plain_twin(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the name, signature and marks of ``function`` that is no generator function.

    pytest reads its signature (through ``__wrapped__``) and never calls it. It asks for the engine
    by itself, so that a script whose context has another name than ``t`` has one too, and before
    the other fixtures of the test, which an engine that cannot run it should not have set up.
    """

    @functools.wraps(function)
    def twin(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a scripted test is run by the scripted plugin")

    marks = list(getattr(function, "pytestmark", []))  # a copy: the function keeps its own
    twin.pytestmark = [*marks, pytest.mark.usefixtures("scripted_session").mark]  # type: ignore[attr-defined]
    return twin

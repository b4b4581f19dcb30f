"""The names of the ways to run tasks: by themselves, since every command line imports them."""

from __future__ import annotations

from enum import StrEnum


class ExecutorName(StrEnum):
    """The ways to run tasks."""

    LOCAL = "local"
    RAY = "ray"

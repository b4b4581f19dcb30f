"""What an adapter may say, beside ``EngineAdapter``, about the server that its engine is part of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class DescribesServer(Protocol):
    """An engine with an HTTP front and server arguments: who attaches to it wants to know both."""

    def base_url(self) -> str:
        """``http://host:port`` of the front, as seen from this machine."""
        ...

    def server_arguments(self) -> Mapping[str, Any]:
        """Every server argument by name, defaults included; values of any kind."""
        ...


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those that can be told and compared: numbers, texts, booleans, ``None``, and lists of them."""
    return {name: value for name, value in arguments.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    if isinstance(value, str):
        return value.isprintable()
    return value is None or isinstance(value, (bool, int, float))

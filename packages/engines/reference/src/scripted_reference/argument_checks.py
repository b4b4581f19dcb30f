"""What single engine arguments have to be, and how a user is told of one that is not."""

from __future__ import annotations

from collections.abc import Mapping

from scripted_registry.errors import ConfigError


def check_int(name: str, value: object, *, least: int) -> None:
    """Raise `ConfigError` unless an argument is a whole number from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_argument(name, value, "is not an int", f"use a whole number from {least} on")
    if value < least:
        raise wrong_argument(name, value, "is too small", f"use {least} or more")


def check_number(name: str, value: object, *, most: float | None = None) -> None:
    """Raise `ConfigError` unless an argument is a number from 0 on, and to `most`."""
    hint = "use a number from 0 on" if most is None else f"use a number from 0 to {most:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_argument(name, value, "is not a number", hint)
    if not 0 <= value < float("inf") or (most is not None and value > most):
        raise wrong_argument(name, value, "is impossible", hint)


def lora_folders(value: object) -> dict[str, str]:
    """Return the adapters' folders by name, from a mapping or from a list as SGLang takes it."""
    hint = 'use {"name": "folder"}, or a list of "name=folder"'
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        pairs = [_split_lora(one) for one in value]
    else:
        raise wrong_argument("lora_paths", value, "is neither a mapping nor a list", hint)
    for pair in pairs:
        if not all(isinstance(part, str) and part for part in pair):
            raise wrong_argument(
                "lora_paths", value, "has an entry that is no name with a folder", hint
            )
    folders = dict(pairs)
    if len(folders) != len(pairs):
        raise wrong_argument(
            "lora_paths", value, "names one adapter twice", "give each a name of its own"
        )
    return folders


def _split_lora(entry: object) -> tuple[object, object]:
    if not isinstance(entry, str):
        return (None, entry)
    name, equals, folder = entry.partition("=")
    return (name, folder) if equals else (entry, entry)


def wrong_argument(name: str, value: object, problem: str, hint: str) -> ConfigError:
    """Return what a user is told of an argument that cannot be had."""
    return ConfigError(f"engine argument {name}={value!r} {problem}", hint=hint)

"""A kit's options: a frozen dataclass, whose values on a command line are text."""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from scripted_core.errors import ConfigError

_T = TypeVar("_T")

_BOUNDS: Final = (
    ("above", "above", operator.gt),
    ("at_least", "of at least", operator.ge),
    ("at_most", "of at most", operator.le),
)


@dataclass(frozen=True, kw_only=True)
class OptionHelp:
    """One option: its name, its type in a word, its default and what it is for."""

    name: str
    kind: str
    default: str
    text: str


def option(
    default: Any,
    text: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of an options class, with what it is for, and what a number of it has to be."""
    bounds = {"above": above, "at_least": at_least, "at_most": at_most}
    return dataclasses.field(default=default, metadata={"help": text, **bounds})


def described(kind: type[Any]) -> list[OptionHelp]:
    """Every option of an options class, in its order."""
    hints = typing.get_type_hints(kind)
    return [
        OptionHelp(
            name=field.name,
            kind=_kind_name(hints[field.name]),
            default=_shown(field.default),
            text=str(field.metadata.get("help", "")),
        )
        for field in dataclasses.fields(kind)
    ]


def parse_options(kind: type[_T], given: Mapping[str, object], *, kit: str) -> _T:
    """An options object; texts are read as the type that their field has.

    Raises `ConfigError` for an unknown name, with the nearest, and for a value that cannot be read.
    """
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = name.strip().replace("-", "_")
        if field not in hints:
            near = difflib.get_close_matches(field, hints, n=1)
            raise ConfigError(
                f"kit {kit} has no option {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(hints)}",
            )
        values[field] = _read(value, hints[field], name=field, kit=kit)
    return kind(**values)


def check_bounds(options: object, *, kit: str) -> None:
    """Do nothing when every number is within its field's bounds; `ConfigError` names one that is not.

    NaN is within none, and infinity is no amount of anything.
    """
    assert dataclasses.is_dataclass(options), "made by `option`"
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        wanted = [
            (words, is_right, bound)
            for name, words, is_right in _BOUNDS
            if (bound := field.metadata.get(name)) is not None
        ]
        if not math.isfinite(value) or not all(is_right(value, to) for _, is_right, to in wanted):
            raise ConfigError(
                f"option {field.name}={value:g} of kit {kit} is no amount that can be used",
                hint="give a number "
                + " and ".join(f"{words} {bound:g}" for words, _, bound in wanted),
            )


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _read(value: object, hint: Any, *, name: str, kit: str) -> object:
    members = _members(hint)
    if not isinstance(value, str):
        return value
    if value.lower() in ("none", "") and type(None) in members:
        return None
    for member in members:
        try:
            return _as(member, value)
        except (ValueError, KeyError):
            continue
    raise ConfigError(
        f"option {name}={value!r} of kit {kit} is no {_kind_name(hint)}",
        hint=f"give a {_kind_name(hint)}",
    )


def _as(kind: Any, text: str) -> object:
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
            text.lower()
        ]
    if kind in (int, float, str, Path) or (isinstance(kind, type) and issubclass(kind, Enum)):
        return kind(text)
    raise ValueError(text)


def _kind_name(hint: Any) -> str:
    names = []
    for member in _members(hint):
        if isinstance(member, type) and issubclass(member, Enum):
            names.append("|".join(str(one.value) for one in member))
        elif member is not type(None):
            names.append(getattr(member, "__name__", str(member)).lower())
    return " or ".join(names)


def _shown(value: object) -> str:
    return str(value.value) if isinstance(value, Enum) else str(value)

"""Canonical, hashable identities of plain data: what makes two engine configurations the same."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from typing import Any, TypeAlias

Identity: TypeAlias = tuple[Hashable, ...]


def identity_of(value: Any) -> Identity:
    """Return a hashable identity that is equal for equal plain data only.

    Types are part of it, because `True == 1 == 1.0` although an engine may tell them apart: a
    needless second engine start costs seconds, a wrongly shared engine gives a wrong result.
    Raises `TypeError` for a value that is neither a container nor hashable.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, Mapping):
        items = [(identity_of(key), identity_of(item)) for key, item in value.items()]
        return (kind, tuple(sorted(items, key=repr)))
    if isinstance(value, (list, tuple)):
        return (kind, tuple(identity_of(item) for item in value))
    if isinstance(value, Set):
        return (kind, tuple(sorted((identity_of(item) for item in value), key=repr)))
    if isinstance(value, float):
        return (kind, repr(value))  # NaN is unequal to itself, its text is not
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"a value of type {kind} is not hashable") from error
    return (kind, value)


def plain_copy(value: object) -> object:
    """Return `value` with its dicts, lists and sets copied, so that later changes do not show."""
    if type(value) is dict:
        return {key: plain_copy(item) for key, item in value.items()}
    if type(value) is list:
        return [plain_copy(item) for item in value]
    if type(value) is tuple:
        return tuple(plain_copy(item) for item in value)
    if type(value) is set:
        return set(value)
    return value

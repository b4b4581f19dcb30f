"""Tagged plain data: how arguments of a script travel without pickle.

``None``, bools, ints, floats, strings, bytes, lists and dicts travel as they are; tuples, sets,
frozensets, enums, dataclasses, ``Path`` and ints beyond 64 bits travel tagged and arrive as what
they were. Anything else is refused by name.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from scripted_core.errors import ScriptNotImportable

_TAG = "!scripted"
_INT64 = range(-(2**63), 2**64)


def type_name(cls: type) -> str:
    """``module:Qual.name`` of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def to_plain(value: Any, *, what: str) -> Any:
    """``value`` as tagged plain data; ``what`` names it in the error (an argument, a fixture)."""
    try:
        return _tagged(value, what=what)
    except RecursionError:
        raise ScriptNotImportable(
            f"{what} cannot travel to the engine's process: it holds itself, or is nested too deep",
            hint="pass flat data, or build the object inside the script",
        ) from None


def plain_args(args: Sequence[Any]) -> list[Any]:
    """Positional arguments of a script as tagged plain data."""
    return [to_plain(arg, what=f"argument {i}") for i, arg in enumerate(args)]


def plain_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a script (fixtures among them) as tagged plain data."""
    return {
        name: to_plain(value, what=f"argument or fixture {name!r}")
        for name, value in kwargs.items()
    }


def _tagged(value: Any, *, what: str) -> Any:
    match value:
        case enum.Enum():
            if "<locals>" in type(value).__qualname__:
                raise _refused(value, what)
            if isinstance(value, enum.Flag):  # several members together have no name of their own
                return {_TAG: "flag", "t": type_name(type(value)), "v": value.value}
            return {_TAG: "enum", "t": type_name(type(value)), "v": value.name}
        case None | bool() | float() | bytes():
            return value
        case str():
            return _text(value, what)
        case int():
            return value if value in _INT64 else {_TAG: "int", "v": str(value)}
        case list():
            return [_tagged(item, what=what) for item in value]
        case tuple() if type(value) is tuple:
            return {_TAG: "tuple", "v": [_tagged(item, what=what) for item in value]}
        case set() | frozenset():
            kind = "set" if isinstance(value, set) else "frozenset"
            items = sorted(value, key=repr)
            return {_TAG: kind, "v": [_tagged(item, what=what) for item in items]}
        case dict():
            if all(isinstance(key, str) for key in value) and _TAG not in value:
                return {_text(key, what): _tagged(item, what=what) for key, item in value.items()}
            pairs = [
                [_tagged(key, what=what), _tagged(item, what=what)] for key, item in value.items()
            ]
            return {_TAG: "dict", "v": pairs}
        case pathlib.PurePath():
            return {_TAG: "path", "v": _text(str(value), what)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if "<locals>" in type(value).__qualname__:
            raise _refused(value, what)
        fields = {
            field.name: _tagged(getattr(value, field.name), what=f"{what}.{field.name}")
            for field in dataclasses.fields(value)
            if field.init
        }
        return {_TAG: "dataclass", "t": type_name(type(value)), "v": fields}
    raise _refused(value, what)


def _text(value: str, what: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ScriptNotImportable(
            f"{what} cannot travel to the engine's process: {value!r} is not valid Unicode text",
            hint="pass it as bytes (os.fsencode for a file name)",
        ) from error
    return value


def _refused(value: Any, what: str) -> ScriptNotImportable:
    return ScriptNotImportable(
        f"{what} cannot travel to the engine's process: it is a {type_name(type(value))}",
        hint=(
            "pass plain data (numbers, strings, lists, tuples, sets, dicts, enums, dataclasses of a "
            "module, paths), build the object inside the script, or use an in-process engine"
        ),
    )


def from_plain(data: Any, *, resolve_type: Callable[[str], type]) -> Any:
    """Undo :func:`to_plain`; ``resolve_type`` finds a class by ``module:Qual.name``."""
    if isinstance(data, list):
        return [from_plain(item, resolve_type=resolve_type) for item in data]
    if not isinstance(data, dict):
        return data
    if _TAG not in data:
        return {key: from_plain(item, resolve_type=resolve_type) for key, item in data.items()}
    kind, body = data[_TAG], data["v"]
    match kind:
        case "int":
            return int(body)
        case "tuple" | "set" | "frozenset":
            items = [from_plain(item, resolve_type=resolve_type) for item in body]
            return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
        case "dict":
            return {
                from_plain(key, resolve_type=resolve_type): from_plain(
                    item, resolve_type=resolve_type
                )
                for key, item in body
            }
        case "path":
            return pathlib.Path(body)
        case "enum":
            return cast("type[enum.Enum]", resolve_type(data["t"]))[body]
        case "flag":
            return cast("type[enum.Flag]", resolve_type(data["t"]))(body)
        case "dataclass":
            fields = {
                name: from_plain(item, resolve_type=resolve_type) for name, item in body.items()
            }
            return resolve_type(data["t"])(**fields)
    raise ScriptNotImportable(
        f"an argument arrived with the unknown tag {kind!r}",
        hint="install the same scripted-core on both sides",
    )

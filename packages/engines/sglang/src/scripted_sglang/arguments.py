"""SGLang's server arguments, read from its installed source.

Importing SGLang's argument parser takes five seconds and pulls in torch, so the declarations are
parsed instead. Up to 0.5.20 they are annotated fields of `ServerArgs`; later they are spread over
the classes in `arg_groups/fields`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path


class ArgumentKind(StrEnum):
    """How a value is written on the command line."""

    VALUE = "value"  # --flag value
    VALUES = "values"  # --flag value value
    JSON = "json"  # --flag '{"key": 1}'
    SWITCH = "switch"  # --flag, and nothing for False
    TOGGLE = "toggle"  # --flag or --no-flag


@dataclass(frozen=True)
class Argument:
    """One server argument: its name in Python, its flag, and how a value of it is written.

    ``number`` is `int` or `float` where it takes one and no text; ``choices`` are the words that it
    takes, where its type lists them.
    """

    name: str
    flag: str
    kind: ArgumentKind
    has_flag: bool = True
    default_on: bool = False
    number: type[int] | type[float] | None = None
    choices: tuple[str, ...] = ()


def source_folder() -> Path | None:
    """Return the folder of the installed `sglang` package, or `None` when there is none."""
    spec = importlib.util.find_spec("sglang")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


@cache
def server_arguments(package: Path) -> dict[str, Argument]:
    """Return the server arguments of the SGLang in the folder `package`, by name."""
    entry = package / "srt" / "server_args.py"
    tree = ast.parse(entry.read_text(encoding="utf-8"))
    written_out = frozenset(_flags_in(tree))
    arguments: dict[str, Argument] = {}
    for name, field in _fields(tree, class_name="ServerArgs"):
        arguments[name] = _argument(name, field, written_out, plain_has_flag=True)
    for source in sorted((package / "srt" / "arg_groups" / "fields").glob("*.py")):
        for name, field in _fields(ast.parse(source.read_text(encoding="utf-8"))):
            arguments[name] = _argument(name, field, written_out, plain_has_flag=False)
    return arguments


def _fields(
    tree: ast.Module, *, class_name: str | None = None
) -> Iterator[tuple[str, ast.AnnAssign]]:
    for node in tree.body:
        if not isinstance(node, ast.ClassDef) or class_name not in (None, node.name):
            continue
        for statement in node.body:
            match statement:
                # Underscore names are bookkeeping, not arguments.
                case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                    yield name, statement


def _flags_in(tree: ast.Module) -> Iterator[str]:
    """Flags that an `add_argument` call spells out."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument"), args=names):
                yield from (text for text in map(_text, names) if text is not None)


def _argument(
    name: str, field: ast.AnnAssign, written_out: frozenset[str], *, plain_has_flag: bool
) -> Argument:
    declared, metadata = _split_annotation(field.annotation)
    flag = _text(metadata.get("cli_name")) or "--" + name.replace("_", "-")
    # The newer form generates a flag only for an annotation that carries metadata.
    is_plain = declared == ast.unparse(field.annotation)
    generated = plain_has_flag if is_plain else "no_cli" not in metadata
    return Argument(
        name=name,
        flag=flag,
        kind=_kind(declared, metadata),
        has_flag=generated or flag in written_out,
        default_on=isinstance(field.value, ast.Constant) and field.value.value is True,
        number=None if "type_parser" in metadata else _NUMBERS.get(_required(declared)),
        choices=() if "type_parser" in metadata else _words(_required(declared)),
    )


_NUMBERS: dict[str, type[int] | type[float]] = {"int": int, "float": float}
_OPTIONAL = re.compile(r"Optional\[(.*)\]|(.*?) \| None", re.DOTALL)


def _required(declared: str) -> str:
    """A type without the `None` that it may be."""
    found = _OPTIONAL.fullmatch(declared)
    return declared if found is None else found[1] or found[2]


def _words(declared: str) -> tuple[str, ...]:
    """The texts of a `Literal` that has nothing else."""
    if not declared.startswith("Literal["):
        return ()
    values = ast.literal_eval(f"({declared.removeprefix('Literal[').removesuffix(']')},)")
    return values if all(isinstance(value, str) for value in values) else ()


def _split_annotation(annotation: ast.expr) -> tuple[str, dict[str, ast.expr]]:
    """Split `A[type, Arg(...)]` into the type as text and the keywords of `Arg`."""
    if not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "A"):
        return ast.unparse(annotation), {}
    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else []
    metadata = {
        keyword.arg: keyword.value
        for part in parts[1:]
        if isinstance(part, ast.Call)
        for keyword in part.keywords
        if keyword.arg is not None
    }
    return (ast.unparse(parts[0]) if parts else ""), metadata


def _kind(declared: str, metadata: dict[str, ast.expr]) -> ArgumentKind:
    action = ast.unparse(metadata["action"]) if "action" in metadata else ""
    if action.endswith("BooleanOptionalAction"):
        return ArgumentKind.TOGGLE
    if declared in {"bool", "Optional[bool]", "bool | None"}:
        return ArgumentKind.SWITCH
    holds_many = any(word in declared for word in ("List", "list[", "set["))
    if "type_parser" in metadata and (holds_many or "ict" in declared):
        return ArgumentKind.JSON
    if holds_many:
        return ArgumentKind.VALUES
    return ArgumentKind.JSON if "ict[" in declared else ArgumentKind.VALUE


def _text(node: ast.expr | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None

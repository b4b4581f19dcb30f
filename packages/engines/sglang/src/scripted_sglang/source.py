"""Names that the installed SGLang defines, read from its source without importing it.

Importing SGLang takes seconds, needs torch, and fails on what is missing; its source says the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from scripted_sglang._compat.needs import Place

_PREFIX = "sglang.srt."


@dataclass(frozen=True)
class ClassNames:
    """What a class has: its attributes and methods, and its bases as they are written."""

    members: frozenset[str]
    bases: tuple[str, ...]


@dataclass(frozen=True)
class ModuleNames:
    """What a module has: names that it defines, its classes, and module and name of what it imports."""

    names: frozenset[str]
    classes: Mapping[str, ClassNames]
    imports: Mapping[str, tuple[str, str]]


def defines(package: Path, place: Place) -> bool:
    """Whether the SGLang in the folder ``package`` has this name, inherited ones included."""
    module = module_names(package, place.module)
    if module is None:
        return False
    if not place.owner:
        return place.name in module.names
    return _class_has(package, place.module, place.owner, place.name)


@cache
def module_names(package: Path, module: str) -> ModuleNames | None:
    """What a module below ``sglang.srt`` defines, or ``None`` where there is no such module.

    Raises ``SyntaxError`` for a source of a newer Python than this one.
    """
    path = package.joinpath("srt", *module.split("."))
    file = path.with_suffix(".py")
    if not file.is_file():
        file = path / "__init__.py"
    if not file.is_file():
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    classes = {
        node.name: _class_names(node) for node in tree.body if isinstance(node, ast.ClassDef)
    }
    imports: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(_PREFIX):
            origin = (node.module or "").removeprefix(_PREFIX)
            imports |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    names = frozenset(name for node in tree.body for name in _bound(node))
    return ModuleNames(names, MappingProxyType(classes), MappingProxyType(imports))


def _class_has(package: Path, module: str, owner: str, name: str) -> bool:
    found = module_names(package, module)
    if found is None:
        return False
    if owner not in found.classes:
        origin = found.imports.get(owner)
        return origin is not None and _class_has(package, *origin, name)
    one = found.classes[owner]
    return name in one.members or any(_class_has(package, module, base, name) for base in one.bases)


def _class_names(node: ast.ClassDef) -> ClassNames:
    members = {name for statement in node.body for name in _bound(statement)}
    for inner in ast.walk(node):
        match inner:
            # `self.name = ...` in any method.
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                members.add(name)
    bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
    return ClassNames(frozenset(members), bases)


def _bound(node: ast.stmt) -> Iterator[str]:
    match node:
        case (
            ast.FunctionDef(name=name)
            | ast.AsyncFunctionDef(name=name)
            | ast.ClassDef(name=name)
            | ast.AnnAssign(target=ast.Name(id=name))
        ):
            yield name
        case ast.Assign(targets=targets):
            yield from (target.id for target in targets if isinstance(target, ast.Name))

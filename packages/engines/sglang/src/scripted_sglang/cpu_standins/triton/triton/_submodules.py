"""Submodules of any name, and the placeholders that stand for what they would define."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

from triton import _kernels

_PREFIX = "triton."
# Optional parts that libraries probe for and do without: there is no kernel load to observe.
_ABSENT = frozenset({"triton.knobs"})
# `from triton import language` asks the package first, and has to get a module.
_PACKAGES = frozenset(
    {
        "triton.backends",
        "triton.compiler",
        "triton.compiler.compiler",
        "triton.language",
        "triton.language.core",
        "triton.language.extra",
        "triton.language.extra.libdevice",
        "triton.runtime",
        "triton.runtime.autotuner",
        "triton.runtime.cache",
        "triton.runtime.jit",
        "triton.testing",
        "triton.tools",
    }
)


class Placeholder:
    """A name that nothing on a CPU evaluates, such as an element type or a device function."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Placeholder:
        if name.startswith("__"):
            raise AttributeError(name)
        return Placeholder(f"{self._name}.{name}")

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(f"{self._name} was called, but triton is a stand-in here")

    def __repr__(self) -> str:
        return f"<stand-in for {self._name}>"


class constexpr:
    """A compile-time constant: usable as an annotation and around a value."""

    def __init__(self, value: object = None) -> None:
        self.value = value

    def __class_getitem__(cls, item: object) -> type[constexpr]:
        return cls


def _is_class_name(name: str) -> bool:
    return name[:1].isupper()


def attribute(module: str, name: str) -> Any:
    """Return what `module.name` is here, making it the first time it is asked for."""
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    full = f"{module}.{name}"
    if full in _ABSENT:
        raise AttributeError(f"module {module!r} has no attribute {name!r} in the stand-in")
    if full in sys.modules:
        return sys.modules[full]
    if full in _PACKAGES:
        return importlib.import_module(full)
    made: object
    if name == "constexpr":
        made = constexpr
    elif name in {"JITFunction", "Config", "jit", "autotune", "heuristics"}:
        made = getattr(_kernels, name)
    elif name.endswith("Error") or name == "OutOfResources":
        made = type(name, (Exception,), {"__module__": module})
    elif _is_class_name(name):
        made = type(name, (), {"__module__": module})
    else:
        made = Placeholder(full)
    setattr(sys.modules[module], name, made)
    return made


class _SubmoduleLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name, "Made on demand by the triton stand-in.")

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        module.__dict__["__getattr__"] = lambda attr: attribute(name, attr)


class _SubmoduleFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PREFIX) or fullname in _ABSENT:
            return None
        return ModuleSpec(fullname, _SubmoduleLoader(), origin="triton stand-in", is_package=True)


def install(meta_path: list[Any]) -> None:
    """Append the finder, behind the real ones, so that files beside this one come first."""
    if not any(isinstance(finder, _SubmoduleFinder) for finder in meta_path):
        meta_path.append(_SubmoduleFinder())

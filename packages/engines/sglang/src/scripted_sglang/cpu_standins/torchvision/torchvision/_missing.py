"""Names that can be imported and raise when they are called."""

from __future__ import annotations

import importlib
from typing import Any, Final, NoReturn

_SUBMODULES: Final = frozenset(
    {
        "torchvision.io",
        "torchvision.transforms",
        "torchvision.transforms.functional",
        "torchvision.transforms.v2",
        "torchvision.transforms.v2.functional",
    }
)


class Missing:
    """Something of torchvision that this stand-in does not have."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError(
            f"{self.__name__} was called, but torchvision is a stand-in here: install torchvision"
            " to serve models that read images"
        )

    def __repr__(self) -> str:
        return f"<stand-in for {self.__name__}>"


def missing(module: str, name: str) -> Any:
    """Return a `Missing` for `module.name`, or raise `AttributeError` for a dunder name.

    `from package import name` asks the package before it looks for a submodule of that name, so a
    submodule that there is is imported and returned here.
    """
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    full = f"{module}.{name}"
    return importlib.import_module(full) if full in _SUBMODULES else Missing(full)

"""``resolve_fn``: a callable from ``module.path:Qual.name``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def resolve_fn(path: str) -> Callable[..., Any]:
    """Import ``module.path`` and walk to ``Qual.name``.

    Raises ``ValueError`` when the text has not that form, or names nothing, and ``TypeError`` when
    it names something that cannot be called.
    """
    module_name, colon, qualname = path.partition(":")
    if not colon or not module_name or not qualname:
        raise ValueError(f"{path!r} is not of the form 'module.path:Qual.name'")
    if "<" in qualname:
        raise ValueError(f"{path!r} names a function inside a function, which cannot be imported")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"{path!r}: cannot import {module_name!r} ({error})") from error
    for part in qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ValueError(f"{path!r}: {module_name!r} has no {qualname!r}") from None
    if not callable(found):
        raise TypeError(f"{path!r} is a {type(found).__name__}, which cannot be called")
    resolved: Callable[..., Any] = found
    return resolved

"""From a function object in the test's process to a :class:`ScriptRef`."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripted_core.errors import ScriptNotImportable
from scripted_core.wire.messages import ScriptRef

_IN_PROCESS_HINT = (
    "move it to the top level of a module and pass what it needs through args=, "
    "or run it on an in-process engine, which takes any callable"
)


def content_hash(source: bytes) -> str:
    """Hash that decides whether the two sides see the same file."""
    return hashlib.blake2b(source, digest_size=16).hexdigest()


def reference_of(fn: Callable[..., Any], *, with_source: bool = False) -> ScriptRef:
    """How another process can import ``fn``; ``ScriptNotImportable`` when it cannot.

    ``with_source`` sends the file along, for a process on a machine that may not have it.
    """
    if isinstance(fn, functools.partial):
        raise ScriptNotImportable(
            f"{fn!r} is a functools.partial, which has no place in a file", hint=_IN_PROCESS_HINT
        )
    is_method = inspect.ismethod(fn) and not isinstance(fn.__self__, type)
    function = inspect.unwrap(fn.__func__ if inspect.ismethod(fn) else fn)
    if not inspect.isfunction(function):
        raise ScriptNotImportable(
            f"{fn!r} is a {type(fn).__name__}, not a function", hint=_IN_PROCESS_HINT
        )
    name = f"{function.__module__}.{function.__qualname__}"
    if function.__name__ == "<lambda>":
        raise ScriptNotImportable(f"{name} is a lambda", hint=_IN_PROCESS_HINT)
    if "<locals>" in function.__qualname__:
        captured = ", ".join(function.__code__.co_freevars)
        raise ScriptNotImportable(
            f"{name} is defined inside another function"
            + (f" and closes over {captured}" if captured else ""),
            hint=_IN_PROCESS_HINT,
        )
    module = sys.modules.get(function.__module__)
    file = getattr(module, "__file__", None) or function.__code__.co_filename
    path = Path(file).resolve()
    if not path.is_file():
        raise ScriptNotImportable(
            f"{name} comes from {file!r}, which is no file that another process could read",
            hint="write the script to a file, or run it on an in-process engine",
        )
    source = path.read_bytes()
    return ScriptRef(
        path=str(path),
        module_name=function.__module__,
        qualname=function.__qualname__,
        content_hash=content_hash(source),
        sys_path=tuple(os.path.abspath(entry) for entry in sys.path if entry is not None),
        is_method=is_method,
        source=source if with_source else b"",
    )

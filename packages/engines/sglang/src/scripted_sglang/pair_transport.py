"""What carries KV from a prefill to a decode server on a CPU, and whether it is there."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from typing import Final

from scripted_sglang._compat.needs import PAIR_HOOKS
from scripted_sglang.arguments import source_folder
from scripted_sglang.probes import TESTED_VERSIONS, find_place, installed_version

_MODULE: Final = "mooncake.engine"
_HOW_TO_INSTALL: Final = (
    "python packages/engines/sglang/tools/install_transfer.py installs it; see the README of "
    "scripted-sglang"
)
_TIMEOUT_S: Final = 60.0


@functools.cache
def why_no_transfer() -> str | None:
    """Why no pair can be started here, or ``None`` if it can."""
    if source_folder() is None:
        return "SGLang is not installed"
    return why_no_release() or why_no_library()


def why_no_release() -> str | None:
    """Why no pair of the installed SGLang can be scripted, or ``None``.

    A release without one of the places where messages between the servers are seen could be started,
    and no script could tell when they have come.
    """
    package = source_folder()
    if package is None:
        return None
    missing = [need.name for need in PAIR_HOOKS if find_place(package, need) is None]
    if not missing:
        return None
    return (
        f"SGLang {installed_version()} has no {', '.join(missing)}, where it is seen what the "
        f"servers send each other; SGLang {TESTED_VERSIONS[0]} has"
    )


def why_no_library() -> str | None:
    """Why nothing can carry KV here, or ``None``.

    The library is loaded in a process of its own: it starts threads, and of a system library that is
    missing only the loader knows.
    """
    if importlib.util.find_spec("mooncake") is None:
        return f"mooncake-transfer-engine-non-cuda is not installed: {_HOW_TO_INSTALL}"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", f"import {_MODULE}"],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"{_MODULE} does not load within {_TIMEOUT_S:g} s"
    if tried.returncode == 0:
        return None
    last = tried.stderr.strip().splitlines()[-1:] or [f"exit status {tried.returncode}"]
    return f"{_MODULE} does not load ({last[0]}): {_HOW_TO_INSTALL}"

"""What carries KV from a prefill to a decode server on a CPU, and whether it is there."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import sys
from typing import Final

_MODULE: Final = "mooncake.engine"
_HOW_TO_INSTALL: Final = (
    "python packages/engines/sglang/tools/install_transfer.py installs it; see the README of "
    "scripted-sglang"
)
_TIMEOUT_S: Final = 60.0


@functools.cache
def why_no_transfer() -> str | None:
    """Why no pair can be started here, or ``None`` if it can.

    Its library is loaded in a process of its own: it starts threads, and of a system library that is
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

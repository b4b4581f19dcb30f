"""Processes of SGLang that do not announce themselves to a session."""

from __future__ import annotations

import os
import time
from typing import Final

from scripted_core.sessions.processes import group_members

DETOKENIZER: Final = "detokenizer"
_TITLE: Final = "sglang::detokenizer"
_POLL_S: Final = 0.02


def detokenizer_pid(*, timeout_s: float) -> int | None:
    """The detokenizer of this process's own server, or ``None`` if it does not show in time.

    Up to 0.5.20 SGLang loads no plugins in it, and no release waits for it: it may begin seconds
    after the server is ready. It has all its imports behind it once it has its title.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        for pid, name in group_members(os.getpgid(0)).items():
            if name == _TITLE:
                return pid
        if time.monotonic() >= deadline:
            return None
        time.sleep(_POLL_S)  # Another process's doing: there is nothing to wait on.

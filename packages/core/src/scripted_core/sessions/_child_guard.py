"""Runs a command so that it dies with its starter: ``python _child_guard.py PPID ARGV…``.

Kept free of imports from this package: it runs once before every server engine.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Ask the kernel for SIGKILL on the parent's death, then become the command."""
    parent = int(argv[0])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was in force
        sys.exit(1)
    try:
        os.execvp(argv[1], argv[1:])
    except OSError as error:
        sys.exit(f"cannot start {argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])

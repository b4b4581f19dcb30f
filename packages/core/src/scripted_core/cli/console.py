"""Where results are drawn: a console that says why it cannot, and leaves the exit status to others."""

from __future__ import annotations

import errno
import os

from rich.console import Console


class ResultConsole(Console):
    """Rich ends the program with status 1 when nobody reads any more; here that is an ``OSError``."""

    def on_broken_pipe(self) -> None:
        """Nobody reads any more."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

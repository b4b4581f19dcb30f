"""`python -m scripted_reference.server`: start the engine as a server, and serve until told to end."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """End in order when told to, even before anything but this has been imported."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    from scripted_reference.server.front_process import main as run

    run()


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)  # nothing is there yet that would have to be put away


if __name__ == "__main__":
    main()

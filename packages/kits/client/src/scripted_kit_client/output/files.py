"""Whether a file can be written, asked before minutes are spent on what is to stand in it."""

from __future__ import annotations

import os
from pathlib import Path

from scripted_core.errors import ConfigError


def look_at_output(file: Path, *, what: str) -> None:
    """Do nothing when `file` can be made or written; `ConfigError` says what cannot be written, and why.

    Nothing is made, so that a run that ends early leaves no empty file.
    """
    why = None
    if file.is_dir():
        why = "it is a folder"
    elif file.exists():
        why = None if os.access(file, os.W_OK) else "it cannot be written"
    elif not file.parent.is_dir():
        why = f"there is no folder {file.parent}"
    elif not os.access(file.parent, os.W_OK):
        why = f"nothing can be made in {file.parent}"
    if why is not None:
        raise ConfigError(
            f"{what} cannot be written to {file}: {why}",
            hint="name a file in a folder that is there",
        )

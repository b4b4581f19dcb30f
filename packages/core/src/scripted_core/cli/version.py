"""What `scripted --version` says."""

from __future__ import annotations

import platform

from scripted_registry import HOOKSPEC_API_VERSION

from scripted_core._version import __version__
from scripted_core.wire.messages import PROTOCOL_VERSION


def version_line() -> str:
    """Version of this package, and the two numbers by which packages and processes fit together."""
    return (
        f"scripted {__version__} (hook API {HOOKSPEC_API_VERSION}, wire protocol "
        f"{PROTOCOL_VERSION}, Python {platform.python_version()})"
    )

"""Adapter that runs scripts inside an unpatched SGLang.

Importing this package imports nothing else: SGLang finds ``scripted_sglang.entry`` in every process
of every server, and outside a session that must have no effect at all.
"""

from __future__ import annotations

from scripted_sglang._version import __version__

__all__ = ["__version__"]

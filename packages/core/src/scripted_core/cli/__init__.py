"""The `scripted` program."""

from __future__ import annotations

from scripted_core.cli.app import build_app, main

__all__ = ["build_app", "main"]

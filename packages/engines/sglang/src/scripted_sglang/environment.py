"""Environment variables between the two sides that only this adapter knows."""

from __future__ import annotations

from typing import Final

ENV_BASE_URL: Final = "SCRIPTED_BASE_URL"
"""Where the server's own HTTP front is, for the scheduler process that posts to it."""

"""Environment variables between the two sides that only this adapter knows."""

from __future__ import annotations

from typing import Final

ENV_BASE_URL: Final = "SCRIPTED_BASE_URL"
"""Where the server's own HTTP front is, for the scheduler process that posts to it."""

ENV_KV_CANARY: Final = "SCRIPTED_KV_CANARY"
"""The arguments of our KV canary, as JSON, for the scheduler process that has it."""

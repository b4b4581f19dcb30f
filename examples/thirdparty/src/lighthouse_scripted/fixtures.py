"""Fixtures of a stranger's; loaded in every pytest run, so nothing heavy is imported up here."""

from __future__ import annotations

import pytest


@pytest.fixture
def burst() -> tuple[int, ...]:
    """Prompt lengths of a burst of requests, in tokens."""
    return (40, 10, 90, 10, 70)

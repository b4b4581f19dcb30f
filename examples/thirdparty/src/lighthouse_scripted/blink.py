"""A kit of a stranger's."""

from __future__ import annotations

import urllib.request


def blink(base_url: str, *, times: int = 3, timeout_s: float = 10.0) -> list[int]:
    """HTTP status of ``/health``, ``times`` in a row. Raises ``OSError`` when there is no server."""
    statuses = []
    for _ in range(times):
        with urllib.request.urlopen(f"{base_url}/health", timeout=timeout_s) as reply:
            statuses.append(int(reply.status))
    return statuses

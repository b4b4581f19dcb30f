"""The progress board: a few numbers in shared memory that tell a stall from work.

The engine side writes them between iterations at the cost of one store; the test side reads them
without any help of an engine that may be stuck.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_LAYOUT = struct.Struct("<QQQ")


class ProgressWriter:
    """Engine side: counts iterations of scripts."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(fd, _LAYOUT.size)
            self._map = mmap.mmap(fd, _LAYOUT.size)
        finally:
            os.close(fd)
        self._ticks = 0

    def tick(self, request_id: int, step: int) -> None:
        """One more sign of life, at ``step`` of the script run ``request_id``."""
        self._ticks += 1
        _LAYOUT.pack_into(self._map, 0, self._ticks, request_id, step)

    def close(self) -> None:
        """Unmap."""
        self._map.close()


class ProgressReader:
    """Test side: the numbers as the engine last wrote them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[int, int, int]:
        """``(ticks, request_id, step)``; zeros before the engine side has written any."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return (0, 0, 0)
        if len(data) < _LAYOUT.size:
            return (0, 0, 0)
        ticks, request_id, step = _LAYOUT.unpack(data)
        return (ticks, request_id, step)

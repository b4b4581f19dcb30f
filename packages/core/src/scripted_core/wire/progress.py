"""The progress board: a few numbers in shared memory that tell a stall from work.

The engine side writes them between iterations at the cost of one store; the test side reads them
without any help of an engine that may be stuck. One number goes the other way: the script that the
engine side should give up at its next iteration.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

_LAYOUT = struct.Struct("<QQQ")
_ABANDONED = struct.Struct("<Q")
_SIZE = _LAYOUT.size + _ABANDONED.size


class ProgressWriter:
    """Engine side: counts iterations of scripts."""

    def __init__(self, path: Path) -> None:
        self._map = _mapped(path)
        self._ticks = 0

    def tick(self, request_id: int, step: int) -> None:
        """One more sign of life, at ``step`` of the script run ``request_id``."""
        self._ticks += 1
        _LAYOUT.pack_into(self._map, 0, self._ticks, request_id, step)

    @property
    def abandoned(self) -> int:
        """The script run that nobody waits for any more; 0 for none."""
        found: int = _ABANDONED.unpack_from(self._map, _LAYOUT.size)[0]
        return found

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
        ticks, request_id, step = _LAYOUT.unpack_from(data)
        return (ticks, request_id, step)

    def abandon(self, request_id: int) -> None:
        """Let the engine side give up this script run at its next iteration."""
        with _mapped(self._path) as board:
            _ABANDONED.pack_into(board, _LAYOUT.size, request_id)


def _mapped(path: Path) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, _SIZE)
        return mmap.mmap(fd, _SIZE)
    finally:
        os.close(fd)

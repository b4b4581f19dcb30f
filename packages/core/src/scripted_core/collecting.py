"""Whether a signal has come where what its handler raises is lost."""

from __future__ import annotations

import gc
from types import FrameType, FunctionType


def is_collecting(frame: FrameType | None) -> bool:
    """Whether ``frame`` was called by a callback of the garbage collector (Hypothesis has one).

    An exception there is printed and ignored: whoever wants to raise one has to wait a moment.
    """
    called = {one.__code__ for one in gc.callbacks if isinstance(one, FunctionType)}
    while frame is not None:
        if frame.f_code in called:
            return True
        frame = frame.f_back
    return False

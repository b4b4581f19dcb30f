"""For the tests of plugins: fake pools, a prefix tree, a whole small engine, sockets; recordings.

Each keeps the protocol of :mod:`scripted_core.ports` (or of the object it stands in for), works
without a process, a model or a network, and does the same in every run.
"""

from __future__ import annotations

from scripted_core.testing.engine import FakeEngine
from scripted_core.testing.pools import FakeHold, FakeKvPool, FakeRowPool
from scripted_core.testing.prefix_tree import FakeLock, FakePrefixTree, FakeTreeNode
from scripted_core.testing.recording import ScriptRecording, record_script, replay
from scripted_core.testing.request import FakeRequest, expected_output
from scripted_core.testing.scheduler import FakeBatch, FakeScheduler
from scripted_core.testing.sockets import FakePairChannel, FakeUnderlyingSocket

__all__ = [
    "FakeBatch",
    "FakeEngine",
    "FakeHold",
    "FakeKvPool",
    "FakeLock",
    "FakePairChannel",
    "FakePrefixTree",
    "FakeRequest",
    "FakeRowPool",
    "FakeScheduler",
    "FakeTreeNode",
    "FakeUnderlyingSocket",
    "ScriptRecording",
    "expected_output",
    "record_script",
    "replay",
]

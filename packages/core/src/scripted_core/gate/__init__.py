"""The gate: lets a test client from elsewhere in to an engine that somebody else has started.

It is a process beside the engine's driver rank, so that it can answer, and say what it sees, while
that is stuck or gone. Towards the engine it is the test side of a session; towards test clients it
listens on TCP, and lets one of them in at a time.
"""

from __future__ import annotations

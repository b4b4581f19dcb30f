"""The wire between the test side and the engine side: messages, plain data, sockets."""

from __future__ import annotations

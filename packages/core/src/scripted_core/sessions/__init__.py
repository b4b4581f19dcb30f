"""Sessions: the test side's grip on an engine, in this process or in processes of its own."""

from __future__ import annotations

from scripted_core.sessions.base import Session
from scripted_core.sessions.http_server import ScriptedHttpServer
from scripted_core.sessions.in_process import InProcessSession
from scripted_core.sessions.launch import ServerLaunch

__all__ = ["InProcessSession", "ScriptedHttpServer", "ServerLaunch", "Session"]

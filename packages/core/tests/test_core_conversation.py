"""What a session says of an engine of several ranks, one of which took the others along."""

from __future__ import annotations

import pytest
from scripted_core.errors import EngineDied
from scripted_core.sessions.conversation import Conversation
from scripted_core.wire.messages import OutOfBandError
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_REPORT = OutOfBandError("scheduler pp0", 7, "RuntimeError", "connection closed", "Traceback")


class _Engine:
    """The engine's end of a session: a report is there, and these processes have ended."""

    def __init__(self, ended):
        self._ended = ended
        self._reports = [_REPORT]

    def pollables(self):
        return ()

    def receive(self):
        return self._reports.pop() if self._reports else None

    def ended(self):
        return self._ended


@pytest.mark.parametrize(
    ("ended", "first"),
    [
        (None, "rank scheduler pp0 (pid 7) broke"),
        ("scheduler pp0 (pid 7) exited with 1", "scheduler pp0 (pid 7) exited with 1"),
        ("scheduler pp1 (pid 8) was killed", "scheduler pp1 (pid 8) was killed"),
        (
            "scheduler pp0 (pid 7) exited with 1, scheduler pp1 (pid 8) was killed",
            "scheduler pp0 (pid 7) exited with 1, scheduler pp1 (pid 8) was killed",
        ),
    ],
)
def test_what_has_ended_is_named_before_what_a_rank_reports(ended, first):
    conversation = Conversation(_Engine(ended), stall_timeout_s=1, died=EngineDied)
    with pytest.raises(EngineDied) as caught:
        conversation.next_message(0)
    told = str(caught.value)
    assert told.startswith(first)
    assert "connection closed" in told

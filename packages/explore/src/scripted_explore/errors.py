"""What exploration raises."""

from __future__ import annotations

from scripted_core.errors import ScriptedError, ScriptFailed


class RuleBroken(ScriptFailed):
    """An engine did what the semantics of a call exclude; the message begins with the rule's name."""

    code = "rule-broken"


class WorkerDied(ScriptedError):
    """A process of a campaign ended before its task did."""

    code = "worker-died"


class ProgramFailed(ScriptFailed):
    """A campaign has come upon a program that fails."""

    code = "program-failed"

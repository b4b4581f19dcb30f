"""A finding as a pytest file that a person can read, run and keep."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from scripted_explore.facts import facts_of
from scripted_explore.finding import Finding
from scripted_explore.operations import as_code

_HEAD = '''"""{title}

{text}

{found_by}
"""

import pytest
from scripted_explore import replay
from scripted_explore.operations import {operations}
{more}
# What each prompt puts out when nothing disturbs it.
OUTPUTS = {{
{outputs}
}}


@pytest.mark.scripted({kwargs})
def test_{name}(t):
    yield from replay(
        t,
        [
{ops}
        ],
        outputs=OUTPUTS,{facts}
    )
'''
_ENUMS = ("PauseMode", "Side")


def file_text(finding: Finding) -> str:
    """The text of a test that fails for as long as the engine does what was found."""
    ops = [as_code(op) for op in finding.program.ops]
    code = "\n".join(f"            {op}," for op in ops)
    more = ""
    enums = [name for name in _ENUMS if f"{name}." in code]
    if enums:
        more += f"from scripted_core.views import {', '.join(enums)}\n"
    if "TransferAction." in code:
        more += "from scripted_core.ops import TransferAction\n"
    kinds = sorted({type(op).__name__ for op in finding.program.ops})
    return _HEAD.format(
        title=f"{finding.signature} on {finding.backend}, {finding.program.topology}.",
        text=textwrap.indent(_quoted(finding.text), "    "),
        found_by=textwrap.fill(f"Found by {finding.found_by}.", 96, break_long_words=False),
        operations=", ".join(kinds) or "Steps",
        more=more,
        outputs="\n".join(f"    {key!r}: {value!r}," for key, value in finding.outputs.items()),
        kwargs=_keywords(finding.program.kwargs),
        name=finding.name,
        ops=code,
        facts=_facts(finding),
    )


def write_test(finding: Finding, folder: Path) -> Path:
    """Write it as ``test_<name>.py`` into ``folder``; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"test_{finding.name}.py"
    path.write_text(file_text(finding), encoding="utf-8")
    return path


def _facts(finding: Finding) -> str:
    """What ``replay`` is to be told beyond its defaults, a line each."""
    known = facts_of(finding.program.kwargs, overlap=False)
    given = {
        "chunk_tokens": (known.chunk_tokens, 16),
        "context_tokens": (known.context_tokens, 160),
        "slots": (known.slots, 1),
        "slot_requests": (known.slot_requests, None),
        "window_tokens": (known.window_tokens, None),
        "fifo": (known.fifo, True),
        "replicas": (known.replicas, 1),
    }
    return "".join(
        f"\n        {name}={value!r}," for name, (value, usual) in given.items() if value != usual
    )


def _keywords(kwargs: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def _quoted(text: str) -> str:
    lines = text.replace("\\", "\\\\").replace('"""', "'''").splitlines()
    return "\n".join(line[:160] for line in lines[:12])

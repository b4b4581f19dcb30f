"""A program that fails, what it fails with, and when two failures are the same one."""

from __future__ import annotations

import hashlib
import re
import traceback
from enum import StrEnum
from typing import Final

import msgspec
from scripted_core.errors import (
    EngineDied,
    EngineDirty,
    LeakDetected,
    ReplyTimeout,
    ScriptedError,
    ScriptFailed,
    ScriptStalled,
)

from scripted_explore.program import Program

_CODE: Final = re.compile(r"\[([a-z-]+)\] step")
_ERROR_LINE: Final = re.compile(
    r"^(?:\[[^]]*\] *)?((?:\w+\.)*\w*(?:Error|Exception|Fault)): ?(.*)$", re.MULTILINE
)
_NUMBERS: Final = re.compile(r"0x[0-9a-f]+|\d+")
_OURS: Final = ("scripted_explore", "scripted_hook", "scripted_core")


class Kind(StrEnum):
    """What noticed."""

    INVARIANT = "invariant"
    RULE = "rule"
    ENGINE = "engine's own check"
    DIED = "engine died"
    STUCK = "stuck"


class Signature(msgspec.Struct, frozen=True):
    """Failures with the same one are taken for one finding."""

    kind: Kind
    what: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.what}"


STALLED: Final = Signature(Kind.STUCK, ScriptStalled.__name__)
"""An iteration that does not end: each run of such a program takes as long as it is waited for."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """``program`` fails on ``backend``, and ``text`` is what it says.

    ``outputs`` are what its prompts put out undisturbed. ``found`` is the program as it was drawn,
    number ``number`` of seed ``seed``, or without one of the corpus, and ``found_by`` says what runs
    it; ``steps`` iterations and ``seconds`` had gone by, ``shrinking_s`` more went into making it
    small.
    """

    backend: str
    program: Program
    signature: Signature
    text: str
    outputs: dict[str, list[int]] = {}
    found: Program | None = None
    found_by: str = ""
    seed: int = 0
    number: int | None = None
    steps: int = 0
    seconds: float = 0.0
    shrinking_s: float = 0.0
    reproduced: bool = True

    @property
    def name(self) -> str:
        """A short name: what it is, and a few digits."""
        text = f"{self.backend}{self.program.topology}{self.signature}"
        digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
        words = re.sub(r"[^a-z]+", "_", self.signature.what.lower()).strip("_")[:40].strip("_")
        return f"{words}_{digest}"


def signature_of(error: BaseException) -> Signature:
    """What a failed run is recognized by, whatever its numbers are."""
    text = str(error)
    code = _CODE.search(text)
    raised_by_us = isinstance(error, (LeakDetected, ScriptFailed)) and code is not None
    if isinstance(error, LeakDetected) and code is not None:
        if code[1] == "no-progress":
            return Signature(Kind.STUCK, code[1])
        return Signature(Kind.INVARIANT, code[1])
    if raised_by_us and code is not None:
        kind = Kind.STUCK if code[1] == "stuck" else Kind.RULE
        return Signature(kind, code[1])
    if isinstance(error, EngineDied):
        return Signature(Kind.DIED, _last_error(text))
    if isinstance(error, (ScriptStalled, ReplyTimeout, EngineDirty)):
        return Signature(Kind.STUCK, type(error).__name__)
    if isinstance(error, ScriptedError) and error.code not in ("script-failed", "engine-fault"):
        return Signature(Kind.ENGINE, f"{type(error).__name__} {_place(error)}".strip())
    cause = error.__cause__ if error.__cause__ is not None else error
    return Signature(Kind.ENGINE, f"{type(cause).__name__} {_place(cause)}".strip())


def _place(error: BaseException) -> str:
    """The function that raised, of the last frames that are not ours."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(ours in frame.filename for ours in _OURS)
    ]
    return frames[-1].name if frames else ""


def _last_error(text: str) -> str:
    found = _ERROR_LINE.findall(text)
    if not found:
        return "without a word"
    kind, said = found[-1]
    return f"{kind.rpartition('.')[2]} {_NUMBERS.sub('N', said)[:80]}".strip()

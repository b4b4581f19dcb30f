"""One script on one engine that has, or has not, a fault: does it raise an alarm, and which?"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import pytest
from scripted_core import InProcessSession
from scripted_core.errors import (
    EngineDirty,
    LeakDetected,
    ReplyTimeout,
    ScriptStalled,
    StepsExhausted,
)

from scripted_reference.errors import EngineFault
from scripted_reference.faults.fault import FaultNotHere
from scripted_reference.faults.portable import PortableScript

_STALL_TIMEOUT_S: Final = 2.0
_SCRIPT_TIMEOUT_S: Final = 20.0
_ENGINE_MODULES: Final = "scripted_reference"
_STUCK: Final = (StepsExhausted, ScriptStalled, ReplyTimeout, EngineDirty)
_OUTPUT_SOURCE: Final = re.compile(r"output_ids|client\.token_ids")
_OUTPUT_MESSAGE: Final = "was answered with"
_CODES: Final = re.compile(r"^\[([a-z-]+)\]", re.MULTILINE)


class AlarmKind(StrEnum):
    """What noticed."""

    INVARIANT = "invariant"
    ENGINE_CHECK = "engine's own check"
    CRASH = "engine crashed"
    STUCK = "stuck"
    OUTPUT = "wrong output"
    SCRIPT = "script's assertion"


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a script came upon: `text` is the violated invariant or the exception, in one line."""

    kind: AlarmKind
    text: str

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.text}" if self.kind is _INVARIANT else self.kind.value


_INVARIANT: Final = AlarmKind.INVARIANT


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run a script: as it says, or with overlap scheduling on."""

    script: PortableScript
    overlap: bool = False

    @property
    def name(self) -> str:
        """The script's name, and what is different."""
        return f"{self.script.name} with overlap" if self.overlap else self.script.name

    def engine_kwargs(self, fault: str | None) -> dict[str, Any]:
        """The engine arguments of this run."""
        kwargs = dict(self.script.engine_kwargs)
        if self.overlap:
            kwargs["disable_overlap_schedule"] = False
        if fault is not None:
            kwargs["inject_fault"] = fault
        return kwargs


def variants(scripts: list[PortableScript]) -> Iterator[Variant]:
    """Yield every script as it says; then once more with overlap where it leaves that open."""
    for script in scripts:
        yield Variant(script=script)
        if script.engine_kwargs.get("disable_overlap_schedule") is None:
            yield Variant(script=script, overlap=True)


def try_out(variant: Variant, *, fault: str | None) -> Alarm | None:
    """Run a script on a fresh engine; the alarm that it raised, or `None`.

    A script that is skipped on that engine raises none.
    """
    script = variant.script
    if script.skipped is not None:
        return None
    try:
        session = InProcessSession.start(
            backend="reference",
            stall_timeout_s=_STALL_TIMEOUT_S,
            **variant.engine_kwargs(fault),
        )
    except FaultNotHere:
        return None
    with session:
        if not session.capabilities.issuperset(script.requires):
            return None
        try:
            session.execute_script(
                script.function, kwargs=script.arguments, timeout_s=_SCRIPT_TIMEOUT_S
            )
        except pytest.skip.Exception:
            return None
        except (Exception, pytest.fail.Exception) as error:
            return _alarm(error)
    return None


def _alarm(error: BaseException) -> Alarm:
    first_line = (str(error).strip().splitlines() or [""])[0]
    text = f"{type(error).__name__}: {first_line}"
    if isinstance(error, LeakDetected):
        codes = _CODES.findall(str(error))
        if codes == ["no-progress"]:
            return Alarm(AlarmKind.STUCK, "no-progress")
        return Alarm(AlarmKind.INVARIANT, ", ".join(dict.fromkeys(codes)))
    if isinstance(error, _STUCK):
        return Alarm(AlarmKind.STUCK, text)
    if isinstance(error, EngineFault):
        return Alarm(AlarmKind.ENGINE_CHECK, text)
    frames = traceback.extract_tb(error.__traceback__)
    if frames and _ENGINE_MODULES in frames[-1].filename:
        is_check = isinstance(error, AssertionError)
        return Alarm(AlarmKind.ENGINE_CHECK if is_check else AlarmKind.CRASH, text)
    # How much of its operands an assertion shows depends on pytest's options; its source does not.
    source = frames[-1].line or "" if frames else ""
    if _OUTPUT_SOURCE.search(source) or _OUTPUT_MESSAGE in text:
        return Alarm(AlarmKind.OUTPUT, text)
    return Alarm(AlarmKind.SCRIPT, text)

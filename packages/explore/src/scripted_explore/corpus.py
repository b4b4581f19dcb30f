"""Programs kept between campaigns: those that first met a state, and those that failed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec
from scripted_core.errors import ConfigError

from scripted_explore.finding import Finding
from scripted_explore.program import Program, program_from_json

_MOST = 400
"""Programs that are kept for one backend: the newest."""


class Corpus:
    """A folder of programs as JSON, one folder for each backend in it."""

    def __init__(self, folder: Path, *, backend: str) -> None:
        self._folder = folder / backend.replace(":", "-")

    def prepare(self) -> None:
        """Make the folder; ``OSError`` where it cannot be."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def load(self, topologies: Iterable[str]) -> tuple[Program, ...]:
        """Those of the topologies, in a fixed order. ``ConfigError`` for a file that is no program."""
        wanted = frozenset(topologies)
        programs = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                program = program_from_json(path.read_bytes())
            except (OSError, msgspec.MsgspecError) as error:
                raise ConfigError(
                    f"{path} is no program of this version: {error}", hint="remove it"
                ) from error
            if program.topology in wanted:
                programs.append(program)
        return tuple(programs)

    def keep(self, programs: Iterable[Program]) -> int:
        """Write those that are not there yet; how many."""
        self.prepare()
        new = 0
        for program in programs:
            text = program.as_json()
            path = (
                self._folder / f"{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.json"
            )
            if not path.exists():
                path.write_text(text, encoding="utf-8")
                new += 1
        there = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in there[:-_MOST]:
            path.unlink()
        return new


def program_of(path: Path) -> tuple[Program, str | None]:
    """The program of a corpus file or of a written finding, and the backend if the file names it."""
    try:
        data = path.read_bytes()
        # A finding has a program in it; whichever it is, what is wrong with it is what is said.
        parts = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "program" in parts:
            finding = msgspec.json.decode(data, type=Finding)
            return finding.program, finding.backend
        return program_from_json(data), None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{path} is neither a program nor a finding: {error}",
            hint="give a .json file that an exploration wrote",
        ) from error

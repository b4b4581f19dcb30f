"""What a campaign finds is on disk as soon as it is found, however the campaign ends."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
from scripted_core.errors import ConfigError

from scripted_explore.campaign import Outcome, merged
from scripted_explore.corpus import Corpus
from scripted_explore.finding import Finding
from scripted_explore.written import write_test


class Keeper:
    """Writes findings into ``folder/findings``, and at the end programs into the corpus.

    ``ConfigError`` at once for a folder that cannot be written to.
    """

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        self._findings = folder / "findings"
        self._corpus = corpus
        self._latest: dict[int, Outcome] = {}
        self._written: dict[str, tuple[int, Path]] = {}
        self._lock = threading.Lock()
        try:
            self._findings.mkdir(parents=True, exist_ok=True)
            corpus.prepare()
        except OSError as error:
            raise ConfigError(
                f"findings cannot be written to {folder}: {error.strerror}",
                hint="name another folder with --folder",
            ) from error

    def update(self, place: int, outcome: Outcome) -> None:
        """What a task has come to so far: a finding is written, and again when it is made smaller."""
        with self._lock:
            self._latest[place] = outcome
            for finding in outcome.findings:
                known = self._written.get(finding.name)
                # Several tasks may find the same: the smallest program is the one to read.
                if known is None or len(finding.program.ops) < known[0]:
                    path = self._write(finding)
                    self._written[finding.name] = len(finding.program.ops), path

    def close(self) -> None:
        """Keep the programs that met something new."""
        with self._lock:
            whole = merged(list(self._latest.values()))
        self._corpus.keep([*whole.kept, *(one.program for one in whole.findings)])

    def path(self, finding: Finding) -> Path:
        """The test that was written for a finding."""
        return self._written[finding.name][1]

    def _write(self, finding: Finding) -> Path:
        path = write_test(finding, self._findings)
        path.with_suffix(".json").write_bytes(msgspec.json.encode(finding))
        return path

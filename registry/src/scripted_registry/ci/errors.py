"""The errors of the CI side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripted_registry.errors import ConfigError, ScriptedError


@dataclass(frozen=True, kw_only=True)
class CiProblem:
    """What is wrong with one line of one test file."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


class CiRegistrationError(ConfigError):
    """Registrations that cannot be read or carried out; each of `problems` has file and line."""

    code = "ci-registration-invalid"

    def __init__(self, problems: Iterable[CiProblem], *, hint: str | None = None) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), hint=hint)


class ManifestError(ConfigError):
    """A manifest that cannot be used, or something that it does not hold."""

    code = "ci-manifest-invalid"


class TimingsError(ConfigError):
    """A file of timings that cannot be used."""

    code = "ci-timings-invalid"


class ReportLogError(ConfigError):
    """A report log that cannot be read."""

    code = "ci-report-log-invalid"


class StageCommandError(ScriptedError):
    """The command of a stage that did not do what a stage's command has to."""

    code = "ci-stage-command-failed"


class StaleFilesError(ScriptedError):
    """Generated files that are not what would be generated now."""

    code = "ci-files-stale"

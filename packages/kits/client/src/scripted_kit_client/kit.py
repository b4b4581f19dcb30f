"""A kit: a named set of checks with options, that can be run against any server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from scripted_core.errors import CapabilityMissing, ConfigError, ScriptedError
from scripted_registry import KitSpec

from scripted_kit_client.client import ServerClient, open_client
from scripted_kit_client.errors import CheckFailed, RequestRefused
from scripted_kit_client.options import check_bounds, parse_options
from scripted_kit_client.progress import NoProgress, Progress
from scripted_kit_client.report import Check, KitReport, Outcome, Series, Table
from scripted_kit_client.target import Target

Options = TypeVar("Options")


@dataclass
class Findings:
    """What a kit has found so far; it is told of even when the server dies in the middle."""

    checks: list[Check] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    figures: dict[str, float | int | str | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class KitRun:
    """What a kit works with: the server, a progress bar, and where findings go."""

    client: ServerClient
    progress: Progress
    findings: Findings

    async def check(self, name: str, look: Awaitable[str]) -> None:
        """Await a look at something, which returns what was seen, and note how it came out.

        An assertion that fails is a failed check, and so is a refusal; a missing capability skips it.
        Every other error (a death, a timeout) goes on, and ends the kit.
        """
        begun_s = time.monotonic()
        outcome = Outcome.PASSED
        try:
            message = await look
        except CapabilityMissing as missing:
            outcome, message = Outcome.SKIPPED, missing.message
        except (CheckFailed, RequestRefused) as error:
            outcome, message = Outcome.FAILED, error.message
        except ScriptedError as error:
            self.note(name, Outcome.BROKEN, error.message, time.monotonic() - begun_s)
            raise
        self.note(name, outcome, message, time.monotonic() - begun_s)

    def note(self, name: str, outcome: Outcome, message: str, duration_s: float = 0.0) -> None:
        """Note a check down."""
        self.findings.checks.append(
            Check(name=name, outcome=outcome, message=message, duration_s=duration_s)
        )

    def judge(self, name: str, is_right: bool, message: str) -> None:
        """Note a check down that is right or wrong."""
        self.note(name, Outcome.PASSED if is_right else Outcome.FAILED, message)


@dataclass(frozen=True, kw_only=True)
class Probe(Generic[Options]):
    """One check of its own: `look` returns what it saw, and raises `CheckFailed` if that is wrong."""

    name: str
    look: Callable[[ServerClient, Options], Awaitable[str]]


async def run_probes(run: KitRun, probes: Iterable[Probe[Options]], options: Options) -> None:
    """Make these checks in their order."""
    probes = list(probes)
    for i, probe in enumerate(probes):
        run.progress.begin(probe.name, len(probes))
        run.progress.done(i)
        await run.check(probe.name, probe.look(run.client, options))


@dataclass(frozen=True, kw_only=True)
class Kit(Generic[Options]):
    """A kit; calling it runs it.

    Attributes:
        name, summary: for lists.
        options: a frozen dataclass whose fields are made by `options.option`.
        look: makes the checks and notes them down; an error that it raises ends the kit as broken.
    """

    name: str
    summary: str
    options: type[Options]
    look: Callable[[KitRun, Options], Awaitable[None]]

    def __call__(
        self,
        target: Target,
        *,
        options: Mapping[str, object] | Options | None = None,
        progress: Progress | None = None,
    ) -> KitReport:
        """Run it against `target`, in an event loop of its own.

        `options` is an object of the options class, or values by name (texts are read). Raises
        `ConfigError` for options that cannot be used; every other error is in the report.
        """
        if isinstance(options, self.options):
            chosen = options
        else:
            given = {} if options is None else options
            if not isinstance(given, Mapping):
                raise ConfigError(
                    f"kit {self.name} takes {self.options.__name__}, not {type(given).__name__}",
                    hint='or options by name: {"NAME": value}',
                )
            chosen = parse_options(self.options, given, kit=self.name)
        check_bounds(chosen, kit=self.name)
        return asyncio.run(self._run(target, chosen, progress or NoProgress()))

    async def _run(self, target: Target, options: Options, progress: Progress) -> KitReport:
        begun_s = time.monotonic()
        findings = Findings()
        report = KitReport(kit=self.name, url=target.url, engine="", model="", checks=())
        error: ScriptedError | None = None
        try:
            async with open_client(target) as client:
                report = replace(report, engine=client.facts.engine, model=client.facts.model)
                run = KitRun(client=client, progress=progress, findings=findings)
                await self.look(run, options)
        except ConfigError:
            raise
        except CapabilityMissing as missing:
            findings.checks.append(
                Check(name=self.name, outcome=Outcome.SKIPPED, message=missing.message)
            )
        except CheckFailed as failed:
            findings.checks.append(
                Check(name=self.name, outcome=Outcome.FAILED, message=failed.message)
            )
        except ScriptedError as broken:
            error = broken
        return replace(
            report,
            checks=tuple(findings.checks),
            tables=tuple(findings.tables),
            series=tuple(findings.series),
            figures=findings.figures,
            error=error,
            duration_s=time.monotonic() - begun_s,
        )

    def spec(self) -> KitSpec:
        """Its registration."""
        return KitSpec(name=self.name, summary=self.summary, run=self)

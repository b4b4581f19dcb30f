"""What of the installed SGLang the adapter finds, and what a script loses where it does not.

Nothing is imported of SGLang and nothing is started: the answers come from its source.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripted_sglang._compat.needs import ATTRIBUTES, HOOKS, Need, Place
from scripted_sglang.arguments import source_folder
from scripted_sglang.source import defines

DISTRIBUTION: Final = "sglang"
# Newest first. Every portable script runs on these, the newest on every landing.
TESTED_VERSIONS: Final = ("0.5.23", "0.5.20", "0.5.15")


@dataclass(frozen=True)
class Probe:
    """One thing that the adapter needs, and where this release has it: ``None`` is nowhere."""

    name: str
    purpose: str
    found: str | None
    is_hook: bool
    required: bool
    loses: str

    def __str__(self) -> str:
        if self.found is not None:
            return f"{self.name}: {self.found}"
        return f"{self.name} is missing ({self.purpose}); without it a script loses {self.loses}"


@dataclass(frozen=True)
class Installation:
    """The installed SGLang as far as it matters here."""

    version: str
    is_tested: bool
    probes: tuple[Probe, ...]

    @property
    def missing(self) -> tuple[Probe, ...]:
        """What this release does not have."""
        return tuple(probe for probe in self.probes if probe.found is None)

    @property
    def missing_required(self) -> tuple[Probe, ...]:
        """That of it without which no session can be started."""
        return tuple(probe for probe in self.missing if probe.required)

    @property
    def summary(self) -> str:
        """What was found and what was not, in one line; what is missing for one loss together."""
        hooks = [probe for probe in self.probes if probe.is_hook]
        others = [probe for probe in self.probes if not probe.is_hook]
        said = [f"{_found(hooks)} hook targets and {_found(others)} attributes found"]
        for loses in dict.fromkeys(probe.loses for probe in self.missing):
            names = ", ".join(probe.name for probe in self.missing if probe.loses == loses)
            said.append(f"without {names} a script loses {loses}")
        return "; ".join(said)


def _found(probes: Sequence[Probe]) -> str:
    return f"{sum(probe.found is not None for probe in probes)} of {len(probes)}"


def installed_version() -> str | None:
    """The version of the installed SGLang, or ``None``."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_installation() -> Installation | None:
    """The installed SGLang and what the probes find in it, or ``None`` where there is none.

    Takes some tenths of a second: the modules that are hooked or read are parsed.
    """
    version = installed_version()
    package = source_folder()
    if version is None or package is None:
        return None
    return Installation(version, version in TESTED_VERSIONS, probe(package))


def probe(package: Path) -> tuple[Probe, ...]:
    """Look for everything that the adapter needs in the SGLang in the folder ``package``."""
    return tuple(
        Probe(
            name=need.name,
            purpose=need.purpose,
            found=None if place is None else place.dotted,
            is_hook=need in HOOKS,
            required=need.required,
            loses=need.loses,
        )
        for need in (*HOOKS, *ATTRIBUTES)
        for place in (find_place(package, need),)
    )


def find_place(package: Path, need: Need) -> Place | None:
    """The first place in which a release has what is needed."""
    return next((place for place in need.places if defines(package, place)), None)

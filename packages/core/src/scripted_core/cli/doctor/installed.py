"""Python, the distributions of this project and how they fit together, and pytest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from scripted_registry import HOOKSPEC_API_VERSION

from scripted_core.cli.doctor.findings import Area, Finding, Level
from scripted_core.wire.messages import PROTOCOL_VERSION

_OLDEST_PYTHON = (3, 11)
_OURS = "scripted-"
_OLDEST_PYTEST = 9


def look_at_python() -> Iterator[Finding]:
    """The interpreter that runs this."""
    version = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        wanted = ".".join(map(str, _OLDEST_PYTHON))
        yield _finding(
            Area.PYTHON, Level.MISSING, "python", f"{version} is too old", f"use Python {wanted}"
        )
    elif not sys.platform.startswith("linux"):
        yield _finding(
            Area.PYTHON,
            Level.WARN,
            "python",
            f"{version} on {sys.platform}",
            "sessions watch processes through Linux's pidfd: use Linux, or a container with it",
        )
    else:
        yield _finding(Area.PYTHON, Level.OK, "python", version)


def look_at_distributions() -> Iterator[Finding]:
    """Each installed distribution of ours: its version, and whether it gets what it asks for."""
    installed = dict(_installed())
    for name, distribution in sorted(installed.items()):
        wrong = list(_unmet(distribution, installed))
        if wrong:
            asked = " ".join(f"'{requirement}'" for requirement, _ in wrong)
            has = "; ".join(f"{requirement} ({what})" for requirement, what in wrong)
            text = f"{distribution.version} asks for {has}"
            yield _finding(Area.DISTRIBUTIONS, Level.MISSING, name, text, f"pip install {asked}")
        else:
            yield _finding(Area.DISTRIBUTIONS, Level.OK, name, distribution.version)
    numbers = f"hook API {HOOKSPEC_API_VERSION}, wire protocol {PROTOCOL_VERSION}"
    yield _finding(Area.DISTRIBUTIONS, Level.OK, "API numbers", numbers)


def _installed() -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.name or "")
        if name.startswith(_OURS):
            yield name, distribution


def _unmet(
    distribution: importlib.metadata.Distribution,
    installed: dict[str, importlib.metadata.Distribution],
) -> Iterator[tuple[str, str]]:
    """Requirements on siblings that are not met, each with what there is instead."""
    for text in distribution.requires or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        name = canonicalize_name(requirement.name)
        if not name.startswith(_OURS):
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        plain = f"{name}{requirement.specifier}"
        if name not in installed:
            yield plain, "not installed"
        elif not requirement.specifier.contains(installed[name].version, prereleases=True):
            yield plain, f"{installed[name].version} is installed"


def look_at_pytest() -> Iterator[Finding]:
    """Whether pytest will load the plugin."""
    version = importlib.metadata.version("pytest")
    points = importlib.metadata.entry_points(group="pytest11")
    options = os.environ.get("PYTEST_ADDOPTS", "")
    level, text, remedy = Level.OK, f"{version}, the plugin is loaded by itself", None
    if int(version.partition(".")[0]) < _OLDEST_PYTEST:
        level, text = Level.MISSING, f"{version} is too old"
        remedy = f"pip install 'pytest>={_OLDEST_PYTEST}'"
    elif "scripted" not in points.names:
        level, text = Level.MISSING, f"{version} does not know the plugin"
        remedy = "reinstall scripted-core: its entry point `pytest11` is not registered"
    elif os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        level, text = Level.WARN, f"{version}, PYTEST_DISABLE_PLUGIN_AUTOLOAD keeps the plugin out"
        remedy = "unset it, or: pytest -p scripted_core.pytest_plugin"
    elif re.search(r"-p\s*no:scripted\b", options):
        level, text = Level.WARN, f"{version}, PYTEST_ADDOPTS keeps the plugin out"
        remedy = "take `-p no:scripted` out of PYTEST_ADDOPTS"
    yield _finding(Area.PYTEST, level, "pytest", text, remedy)


def _finding(area: Area, level: Level, name: str, text: str, remedy: str | None = None) -> Finding:
    return Finding(area=area, level=level, name=name, text=text, remedy=remedy)

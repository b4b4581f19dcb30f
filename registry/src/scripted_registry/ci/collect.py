"""Everything that is registered in one repository: its settings, its plugins, its tests."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripted_registry.ci.errors import CiProblem
from scripted_registry.ci.listing import CiListing, build_listing
from scripted_registry.ci.scan import CiRegistration, python_files, scan_files
from scripted_registry.ci.settings import CiSettings, read_settings
from scripted_registry.ci.workspace import workspace_manager, workspace_packages
from scripted_registry.manager import get_plugin_manager

_TEST_FILES = ("test_*.py", "*_test.py")


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What was found."""

    settings: CiSettings
    listing: CiListing


def collect(root: Path, *, only: Iterable[Path] | None = None, strict: bool = False) -> Collected:
    """Return what is registered in the repository at `root`, the tests of `only` if it is given.

    With `strict` a test file without a registration is a problem of the listing.
    Raises the errors of plugins (`PluginError`) and of registrations (`CiRegistrationError`).
    """
    settings = read_settings(root)
    packages = workspace_packages(root, settings.packages)
    manager = workspace_manager(packages) if packages else get_plugin_manager()
    runners, stages = manager.ci_runners(), manager.ci_stages()
    paths = [root / path for path in settings.tests] if only is None else list(only)
    files = [path for path in python_files(paths) if not _is_excluded(root, path, settings)]
    registrations = scan_files(files)
    problems = unregistered(files, registrations) if strict else []
    listing = build_listing(
        runners=runners, stages=stages, registrations=registrations, problems=problems
    )
    return Collected(settings=settings, listing=listing)


def unregistered(files: Iterable[Path], registrations: Iterable[CiRegistration]) -> list[CiProblem]:
    """Return a problem for each test file that registers for no stage."""
    registered = {registration.path for registration in registrations}
    return [
        CiProblem(
            path=path,
            line=1,
            message="no stage runs this test file; register it with the seconds that it takes: "
            'register_cpu_ci(est_time=..., stage="unit", runner_config="cpu")',
        )
        for path in files
        if path not in registered and any(path.match(pattern) for pattern in _TEST_FILES)
    ]


def _is_excluded(root: Path, path: Path, settings: CiSettings) -> bool:
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    return any(fnmatch.fnmatch(relative.as_posix(), pattern) for pattern in settings.exclude)

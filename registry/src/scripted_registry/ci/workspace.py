"""The packages of a repository, found by their pyproject.toml: their plugins need not be installed.

Reading entry points from the sources has two ends: `ci:register` needs an environment with nothing
but this package in it, and a package that is added to the repository is found without a table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripted_registry._discovery import ENTRY_POINT_GROUP, Candidate
from scripted_registry.ci.settings import read_toml
from scripted_registry.errors import ConfigError
from scripted_registry.manager import PluginManager


@dataclass(frozen=True, kw_only=True)
class WorkspacePackage:
    """One package in its folder; `plugins` are its entry points of the group "scripted"."""

    folder: Path
    distribution: str
    plugins: tuple[tuple[str, str], ...]

    @property
    def sources(self) -> Path:
        """The folder that is put on the import path."""
        return self.folder / "src" if (self.folder / "src").is_dir() else self.folder

    def candidates(self) -> list[Candidate]:
        """Return its plugins."""
        return [
            Candidate(
                name=name,
                value=value,
                distribution=self.distribution,
                version=None,
                in_sources=True,
            )
            for name, value in self.plugins
        ]


def workspace_packages(root: Path, globs: Iterable[str]) -> list[WorkspacePackage]:
    """Return the packages in the folders under `root` that match `globs`, by their folders.

    A folder without a pyproject.toml, or whose pyproject.toml has no `[project]`, is none.
    """
    folders = {
        path.resolve()
        for pattern in globs
        for path in ([root] if pattern in (".", "") else root.glob(pattern))
        if (path / "pyproject.toml").is_file()
    }
    return [package for folder in sorted(folders) if (package := _package(folder)) is not None]


def _package(folder: Path) -> WorkspacePackage | None:
    path = folder / "pyproject.toml"
    project = read_toml(path).get("project", {})
    if "name" not in project:
        return None
    points = project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
    if not isinstance(points, dict) or not all(isinstance(v, str) for v in points.values()):
        raise ConfigError(
            f'{path}: [project.entry-points.{ENTRY_POINT_GROUP}] is no table of "module" strings',
            hint='write it as name = "package.plugin"',
        )
    return WorkspacePackage(
        folder=folder, distribution=str(project["name"]), plugins=tuple(sorted(points.items()))
    )


def workspace_manager(packages: Iterable[WorkspacePackage]) -> PluginManager:
    """Return a manager with the plugins of `packages`, and of everything else that is installed.

    The sources of `packages` are put on the import path. One that is installed as well is taken
    from its pyproject.toml: an editable install does not notice new entry points.
    """
    found = list(packages)
    for package in reversed(found):
        sources = str(package.sources)
        if sources not in sys.path:
            sys.path.insert(0, sources)
    manager = PluginManager()
    manager.load_entry_points(
        instead_of_installed={package.distribution: package.candidates() for package in found}
    )
    return manager

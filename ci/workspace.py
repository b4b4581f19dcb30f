"""The distributions of this workspace: where they are, and what they are called."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


@dataclass(frozen=True)
class Package:
    """One distribution: its folder, its name, and the name it is imported by."""

    folder: Path
    name: str
    extras: tuple[str, ...]

    @property
    def import_name(self) -> str:
        """The one package in its `src` folder."""
        return self.name.replace("-", "_")

    @property
    def sources(self) -> Path:
        """The folder that is put on the import path."""
        return self.folder / "src"


def packages() -> list[Package]:
    """Return all distributions, in the order of their folders, as hatch.toml names them."""
    environments = tomllib.loads((ROOT / "hatch.toml").read_text(encoding="utf-8"))["envs"]
    members = environments["default"]["workspace"]["members"]
    return [_package(ROOT / member) for member in members]


def _package(folder: Path) -> Package:
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = tuple(project.get("optional-dependencies", {}))
    return Package(folder=folder, name=project["name"], extras=extras)

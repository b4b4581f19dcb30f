"""The generated files: what they have to hold, writing them, and finding those that are stale."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripted_registry.ci.errors import StaleFilesError
from scripted_registry.ci.manifest import MANIFEST_PATH, Manifest
from scripted_registry.ci.pipelines import (
    BUILDKITE_PATH,
    GITHUB_PATH,
    buildkite_pipeline,
    github_workflow,
)
from scripted_registry.ci.settings import CiSettings

_LINES_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Written:
    """A generated file, and whether it had to be changed."""

    path: Path
    changed: bool


def generated_files(manifest: Manifest, settings: CiSettings) -> dict[Path, str]:
    """Return the text of each generated file, by its path in the repository."""
    return {
        MANIFEST_PATH: manifest.as_json(),
        GITHUB_PATH: github_workflow(manifest, settings),
        BUILDKITE_PATH: buildkite_pipeline(manifest, settings),
    }


def write_files(root: Path, files: Mapping[Path, str]) -> list[Written]:
    """Write the files that differ."""
    written = []
    for path, text in files.items():
        target = root / path
        changed = _content(target) != text.encode()
        if changed:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text.encode())
        written.append(Written(path=path, changed=changed))
    return written


def check_files(root: Path, files: Mapping[Path, str]) -> None:
    """Raise `StaleFilesError` unless every file is there, byte for byte."""
    stale = [path for path, text in files.items() if _content(root / path) != text.encode()]
    if stale:
        shown = "\n".join(_difference(root / path, path, files[path]) for path in stale)
        raise StaleFilesError(
            f"stale: {', '.join(path.as_posix() for path in stale)}\n{shown}",
            hint="`scripted ci register` (here: `hatch run ci:register`) writes them anew; "
            "commit them with the change",
        )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _difference(target: Path, path: Path, wanted: str) -> str:
    content = _content(target)
    if content is None:
        return f"{path.as_posix()} is not there"
    lines = list(
        difflib.unified_diff(
            content.decode(errors="replace").splitlines(),
            wanted.splitlines(),
            fromfile=path.as_posix(),
            tofile="generated now",
            lineterm="",
            n=1,
        )
    )
    left_out = len(lines) - _LINES_SHOWN
    more = [f"... {left_out} more lines"] if left_out > 0 else []
    return "\n".join(lines[:_LINES_SHOWN] + more)

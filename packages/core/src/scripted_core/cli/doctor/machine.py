"""Optional parts, the GPU, and the folder for sessions."""

from __future__ import annotations

import importlib.metadata
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scripted_core.cli.doctor.findings import Area, Finding, Level
from scripted_core.errors import ScriptedError
from scripted_core.wire.address import create_address

_PARTS = (
    ("torch", "models with matrices, and SGLang"),
    ("safetensors", "reading model weights"),
    ("tokenizers", "text prompts of models from a folder"),
)
_NVIDIA_CONTROL = Path("/dev/nvidiactl")
_AMD_CONTROL = Path("/dev/kfd")


def look_at_parts() -> Iterator[Finding]:
    """What some engines and models need, and nothing else does; and the GPU."""
    versions = {name: _version(name) for name, _ in _PARTS}
    for name, needed_for in _PARTS:
        version = versions[name]
        if version is not None:
            yield _part(Level.OK, name, version, None)
        else:
            text = f"not installed; only needed for {needed_for}"
            yield _part(
                Level.WARN,
                name,
                text,
                f"pip install {name}, or 'scripted-reference[tiny]'",
            )
    yield _gpu(versions["torch"])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpu(torch: str | None) -> Finding:
    if not _NVIDIA_CONTROL.exists():
        if _AMD_CONTROL.exists():
            return _part(Level.OK, "GPU", "an AMD GPU is visible; models run on the CPU here", None)
        return _part(Level.OK, "GPU", "none is visible: engines run on the CPU", None)
    count = sum(1 for path in Path("/dev").glob("nvidia[0-9]*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        text = f"{count} of NVIDIA, hidden by CUDA_VISIBLE_DEVICES={visible!r}"
        return _part(Level.WARN, "GPU", text, "unset CUDA_VISIBLE_DEVICES")
    if torch is not None and "+cpu" in torch:
        text = f"{count} of NVIDIA, but torch {torch} is built for the CPU"
        return _part(Level.WARN, "GPU", text, "install a torch built for CUDA")
    return _part(Level.OK, "GPU", f"{count} of NVIDIA", None)


def look_at_temporary_folder() -> Iterator[Finding]:
    """Whether a session gets its private folder, and where."""
    wanted = tempfile.gettempdir()
    try:
        address = create_address()
    except (OSError, ScriptedError) as error:
        text = f"no session can have a folder: {error}"
        yield _machine(Level.MISSING, text, "set TMPDIR to a short path that you can write to")
        return
    try:
        folder = Path(address.directory)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if mode != 0o700:
            text = f"{folder.parent} gives folders the mode {mode:04o} in place of 0700"
            yield _machine(Level.WARN, text, "set TMPDIR to a folder on another file system")
        elif str(folder.parent) != wanted:
            text = f"{folder.parent}: paths of sockets below {wanted} would be too long"
            yield _machine(Level.WARN, text, "set TMPDIR to a short path such as /tmp")
        else:
            yield _machine(Level.OK, f"{folder.parent}, private folders, paths short enough", None)
    finally:
        address.remove()


def _part(level: Level, name: str, text: str, remedy: str | None) -> Finding:
    return Finding(area=Area.PARTS, level=level, name=name, text=text, remedy=remedy)


def _machine(level: Level, text: str, remedy: str | None) -> Finding:
    return Finding(
        area=Area.MACHINE, level=level, name="temporary folder", text=text, remedy=remedy
    )

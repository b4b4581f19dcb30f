"""Which stand-ins an engine process needs on this machine.

SGLang imports `triton`, `sgl_kernel` and `torchvision` on a CPU without really using them. The
folders under `cpu_standins` stand in for those that are not installed. They go on the `PYTHONPATH`
of engine processes only: the test process never sees them, and none is put in front of a real one.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

STANDINS: Final = ("sgl_kernel", "torchvision", "triton")


def standin_path() -> Path:
    """Return the folder that holds all stand-ins, one subfolder (one path entry) for each."""
    return Path(__file__).resolve().parent / "cpu_standins"


def needed_standins() -> tuple[str, ...]:
    """Return the names of the packages that are not installed and have to be stood in for.

    Nothing is imported. A stand-in that is already on the path does not count as installed.
    """
    return tuple(name for name in STANDINS if not _is_installed(name))


def standin_pythonpath() -> tuple[Path, ...]:
    """Return the entries that an engine process's `PYTHONPATH` needs, empty where all is real."""
    return tuple(standin_path() / name for name in needed_standins())


def _is_installed(name: str) -> bool:
    # PathFinder and not find_spec: the triton stand-in adds a finder that knows every submodule,
    # and an imported module would answer from sys.modules.
    spec = PathFinder.find_spec(name)
    if spec is None or spec.origin is None:
        return False
    return standin_path() not in Path(spec.origin).resolve().parents

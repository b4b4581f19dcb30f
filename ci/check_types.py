"""Strict types over the sources of every package, and over this folder: `hatch run lint:types`."""

from __future__ import annotations

import os
import subprocess
import sys

from workspace import ROOT, packages

# Each stand-in is put on the import path by itself, so its modules are named from its own folder.
STAND_INS = ROOT / "packages/engines/sglang/src/scripted_sglang/cpu_standins"


def main() -> int:
    """Run mypy once over everything, with what was given added to its arguments."""
    sources = [str(package.sources.relative_to(ROOT)) for package in packages()] + ["ci"]
    stand_ins = [str(path.relative_to(ROOT)) for path in STAND_INS.iterdir() if path.is_dir()]
    command = [sys.executable, "-m", "mypy", "--strict", *sys.argv[1:], *sources]
    # The roots from which mypy works out a module's name.
    environ = os.environ | {"MYPYPATH": os.pathsep.join(sources + stand_ins)}
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

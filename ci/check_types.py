"""Strict types over every package, the bench and this folder: `hatch run lint:types`."""

from __future__ import annotations

import os
import subprocess
import sys

from workspace import ROOT, packages

# Each stand-in is put on the import path by itself, so its modules are named from its own folder.
STAND_INS = ROOT / "packages/engines/sglang/src/scripted_sglang/cpu_standins"


def main() -> int:
    """Run mypy once over everything, with what was given added to its arguments."""
    roots = [str(package.sources.relative_to(ROOT)) for package in packages()]
    roots += ["ci"]
    stand_ins = [str(path.relative_to(ROOT)) for path in STAND_INS.iterdir() if path.is_dir()]
    # A package whose import root is the root of the repository.
    bench = ["bench"] * (ROOT / "bench").is_dir()
    command = [sys.executable, "-m", "mypy", "--strict", *sys.argv[1:], *roots, *bench]
    # The roots from which mypy works out a module's name.
    environ = os.environ | {"MYPYPATH": os.pathsep.join([*roots, *stand_ins, "."])}
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

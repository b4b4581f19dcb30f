"""Build sdist and wheel of every package into `dist/`: `hatch run dist:build`."""

from __future__ import annotations

import shutil
import subprocess
import sys

from workspace import DIST, packages


def main() -> int:
    """Empty `dist/`, then build; the first failure ends it."""
    shutil.rmtree(DIST, ignore_errors=True)
    for package in packages():
        print(f"building {package.name}", flush=True)
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(DIST)]
        built = subprocess.run(command, cwd=package.folder, text=True, capture_output=True)
        if built.returncode != 0:
            print(built.stdout, built.stderr, sep="\n", file=sys.stderr)
            return built.returncode
    print(f"{len(list(DIST.glob('*.whl')))} wheels in {DIST.name}/")
    return 0


if __name__ == "__main__":
    sys.exit(main())

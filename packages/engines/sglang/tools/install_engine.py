"""Install SGLang for a CPU into the running environment, without its CUDA dependencies.

SGLang's own requirements name CUDA packages. The light ones that a CPU needs are ordinary
dependencies of the environment; this script adds SGLang and its grammar library with `--no-deps`,
which an environment definition cannot express. It is quick when they are already there. Which
versions is up to the environment variable `SCRIPTED_SGLANG_ENGINE`: exact pins with spaces between.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

ENV_ENGINE = "SCRIPTED_SGLANG_ENGINE"
DEFAULT_ENGINE = "sglang==0.5.23 xgrammar==0.2.7"


def engine() -> list[str]:
    """Return the pins of this environment's engine."""
    return (os.environ.get(ENV_ENGINE) or DEFAULT_ENGINE).split()


def missing(requirements: Sequence[str]) -> list[str]:
    """Return those of the exact `name==version` pins that are not installed."""
    return [pin for pin in requirements if not _is_installed(pin)]


def _is_installed(pin: str) -> bool:
    name, _, version = pin.partition("==")
    try:
        return importlib.metadata.version(name) == version
    except importlib.metadata.PackageNotFoundError:
        return False


def installer() -> list[str] | None:
    """Return the install command of this environment: pip where there is one, else uv."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    uv = os.environ.get("HATCH_UV") or shutil.which("uv")
    if uv:
        return [uv, "pip", "install", "--python", sys.executable]
    return None


def install(requirements: Sequence[str]) -> int:
    """Install the missing ones of `requirements`; return an exit status."""
    wanted = missing(requirements)
    if not wanted:
        return 0
    command = installer()
    if command is None:
        print("install_engine: this environment has neither pip nor uv;", file=sys.stderr)
        print(f"  run `{sys.executable} -m ensurepip` and try again", file=sys.stderr)
        return 1
    print(f"install_engine: installing {', '.join(wanted)} (without dependencies)", flush=True)
    status = subprocess.run([*command, "--no-deps", *wanted], check=False).returncode
    if status != 0:
        print(f"install_engine: the installer ended with status {status}", file=sys.stderr)
        print(f"  command: {' '.join([*command, '--no-deps', *wanted])}", file=sys.stderr)
        return status
    # A fresh look: the finder caches of this process predate the installation.
    importlib.invalidate_caches()
    still_missing = missing(requirements)
    if still_missing:
        print(f"install_engine: not found after installing: {still_missing}", file=sys.stderr)
        return 1
    print("install_engine: done", flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("requirements", nargs="*", metavar="NAME==VERSION", default=engine())
    parser.add_argument("--check", action="store_true", help="only say what is missing")
    options = parser.parse_args(argv)
    unpinned = [pin for pin in options.requirements if "==" not in pin]
    if unpinned:
        parser.error(f"not an exact pin: {', '.join(unpinned)}")
    if options.check:
        wanted = missing(options.requirements)
        print("\n".join(wanted) or "install_engine: all there")
        return 1 if wanted else 0
    return install(options.requirements)


if __name__ == "__main__":
    sys.exit(main())

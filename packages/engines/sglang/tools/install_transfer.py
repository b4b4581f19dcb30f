"""Install what carries KV between an SGLang prefill and a decode server on a CPU.

That is the Mooncake transfer engine without CUDA, and the system libraries that it is linked with and
that are not on this machine: RDMA ones, which it loads though it then moves everything over TCP. They
are taken from this machine's own Debian mirror, unpacked, and put beside Mooncake's own libraries, where
its loader looks; nothing is installed into the system, and no root is needed. It is quick when all of
it is there.

Without it tests of prefill/decode pairs are skipped with the reason. Where that must not be, set
`SCRIPTED_REQUIRE_TRANSFER`: then a failure to install it is one.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from install_engine import install

DISTRIBUTION = "mooncake-transfer-engine-non-cuda"
PIN = f"{DISTRIBUTION}==0.3.13.post1"
ENV_REQUIRED = "SCRIPTED_REQUIRE_TRANSFER"
DEBIAN_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libibverbs.so.1": "libibverbs1",
    "libnl-3.so.200": "libnl-3-200",
    "libnl-route-3.so.200": "libnl-route-3-200",
    "libnuma.so.1": "libnuma1",
    "librdmacm.so.1": "librdmacm1",
}
_MISSING = re.compile(r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file")


class CannotInstall(Exception):
    """Why, and what to do about it."""


def missing_library() -> str | None:
    """Return the first system library that Mooncake does not find, or `None` if it loads."""
    tried = subprocess.run(
        [sys.executable, "-c", "import mooncake.engine"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode == 0:
        return None
    found = _MISSING.search(tried.stderr)
    if found is None:
        raise CannotInstall(f"mooncake.engine does not load:\n{tried.stderr.strip()}")
    return found[1]


def library_folder() -> Path:
    """Return the folder of the libraries that Mooncake brings, in which its loader looks first."""
    name = DISTRIBUTION.replace("-", "_") + ".libs"
    for file in importlib.metadata.files(DISTRIBUTION) or ():
        if file.parts[0] == name:
            return Path(str(file.locate())).parent
    raise CannotInstall(f"{DISTRIBUTION} is installed without its folder {name}")


def fetch(package: str, *, into: Path) -> Path:
    """Download a Debian package without installing it; the file."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise CannotInstall(
            f"this machine has no apt-get: install what has {package}'s libraries by its own means"
        )
    own_lists = [
        f"-oDir::State={into / 'state'}",
        "-oDir::State::status=/var/lib/dpkg/status",
        f"-oDir::Cache={into / 'cache'}",
        "-oAPT::Sandbox::User=root",
    ]
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (into / folder).mkdir(parents=True, exist_ok=True)
    # The system's lists may be there and up to date; its own may be written by root alone.
    if not _apt([], "download", package, cwd=into):
        _apt(own_lists, "update", cwd=into)
        if not _apt(own_lists, "download", package, cwd=into):
            raise CannotInstall(
                f"apt-get cannot download {package}; as root: apt-get install {package}"
            )
    return next(into.glob(f"{package}_*.deb"))


def _apt(options: Sequence[str], *words: str, cwd: Path) -> bool:
    done = subprocess.run(
        ["apt-get", "-qq", *options, *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    return done.returncode == 0


def add_library(library: str, *, folder: Path) -> None:
    """Put a library, from its Debian package, into `folder`."""
    package = DEBIAN_PACKAGES.get(library)
    if package is None:
        raise CannotInstall(f"{library} is missing, and no Debian package is known for it")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        deb = fetch(package, into=scratch)
        subprocess.run(["dpkg-deb", "-x", deb, scratch / "unpacked"], check=True)
        found = sorted((scratch / "unpacked").rglob(library))
        if not found:
            raise CannotInstall(f"the package {package} has no {library}")
        shutil.copy(found[0], folder / library)
    print(f"install_transfer: {library} taken from {package}")


def install_transfer() -> None:
    """Install what is missing."""
    if install([PIN]):
        raise CannotInstall(f"{PIN} cannot be installed")
    importlib.invalidate_caches()
    added: set[str] = set()
    while (library := missing_library()) is not None:
        if library in added:
            raise CannotInstall(f"{library} was added and is not found")
        add_library(library, folder=library_folder())
        added.add(library)


def main() -> int:
    """Return 0 also when it cannot be installed, unless it is required."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    try:
        install_transfer()
    except CannotInstall as error:
        print(f"install_transfer: {error}", file=sys.stderr)
        print("install_transfer: prefill/decode pairs of SGLang cannot be started", file=sys.stderr)
        return 1 if os.environ.get(ENV_REQUIRED) else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

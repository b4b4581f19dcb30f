"""Carry SGLang for an NVIDIA GPU to a machine without internet, as a folder of wheels.

    python gpu_bundle.py make BUNDLE              on a machine with internet (any processor, no GPU)
    python gpu_bundle.py pack BUNDLE DIST ARCHIVE there too: all of it, and the wheels in the folder
                                                  DIST, in one file (optional)
    python gpu_bundle.py install BUNDLE SITE      on the GPU machine, from the folder or the file;
                                                  then PYTHONPATH=SITE

The GPU machine has Python 3.12 with torch, CUDA, numpy, aiohttp, pytest and the like; what it lacks is
named, at exact versions, in `gpu-requirements.txt` beside this file. The kernels that SGLang's kernel
package ships for other GPUs and for optional attention backends are left out: SGLang falls back without
them, and the bundle is 80 MB instead of 700. `make --part-mib N` spreads it over folders `part1`,
`part2`, ... of N MiB at most, for a machine that takes only so much at a time. `pack` compresses what
the wheels hold anew, to 55 MB, and leaves out what only other attention backends compile.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("gpu-requirements.txt")
PYTHON_VERSION = "3.12"
# pip matches each tag exactly, so every glibc that wheels of today are built for is named.
GLIBC_TAGS = ("2_5", "2_12", "2_17", "2_24", "2_27", "2_28", "2_31", "2_34", "2_35")
LEFT_OUT = ("flash_ops", "flashmla_ops", "sm100")
KERNEL_WHEEL = "sglang_kernel-"
MIB = 1 << 20


# Headers for FlashInfer's attention and matrix kernels, which are compiled when they are first used; its
# norms and activations, which SGLang does use, are compiled without them.
NOT_PACKED = ("flashinfer/data/cutlass",)


def requirements() -> list[str]:
    """Return the exact pins, one a line in the file; comments and blank lines are passed over."""
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def make(bundle: Path, *, part_mib: int | None) -> int:
    """Download every pin into `bundle`; return pip's exit status if it fails."""
    if bundle.exists() and any(bundle.iterdir()):
        print(f"gpu_bundle: {bundle} is not empty; name a new folder", file=sys.stderr)
        return 2
    bundle.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", *for_the_gpu_machine()]
    command += ["--dest", str(bundle), *requirements()]
    print(f"gpu_bundle: downloading {len(requirements())} wheels", flush=True)
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        print(f"gpu_bundle: pip ended with status {status}", file=sys.stderr)
        return status
    for wheel in bundle.glob(f"{KERNEL_WHEEL}*.whl"):
        strip(wheel)
    wheels = sorted(bundle.glob("*.whl"))
    total = sum(wheel.stat().st_size for wheel in wheels) / MIB
    print(f"gpu_bundle: {len(wheels)} wheels, {total:.0f} MiB in {bundle}")
    return 0 if part_mib is None else spread(wheels, bundle, part_mib=part_mib)


def for_the_gpu_machine() -> list[str]:
    """The options that make pip choose for that machine and not for this one."""
    platforms = [f"manylinux_{tag}_x86_64" for tag in GLIBC_TAGS]
    platforms += ["manylinux1_x86_64", "manylinux2014_x86_64"]
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON_VERSION]
    return options + [f"--platform={platform}" for platform in platforms]


def strip(wheel: Path) -> None:
    """Write a wheel anew without the objects that are left out."""
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        smaller = Path(folder) / wheel.name
        with (
            zipfile.ZipFile(wheel) as old,
            zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for entry in old.infolist():
                if entry.filename.endswith(".so") and any(
                    word in entry.filename for word in LEFT_OUT
                ):
                    continue
                with old.open(entry) as source, new.open(entry.filename, "w") as target:
                    shutil.copyfileobj(source, target)
        smaller.replace(wheel)


def spread(wheels: Sequence[Path], bundle: Path, *, part_mib: int) -> int:
    """Move the wheels into as few folders of `part_mib` as first-fit decreasing finds."""
    parts: list[tuple[int, list[Path]]] = []
    limit = part_mib * MIB
    for wheel in sorted(wheels, key=lambda path: -path.stat().st_size):
        size = wheel.stat().st_size
        if size > limit:
            print(
                f"gpu_bundle: {wheel.name} is larger than {part_mib} MiB; raise --part-mib",
                file=sys.stderr,
            )
            return 2
        for index, (used, members) in enumerate(parts):
            if used + size <= limit:
                members.append(wheel)
                parts[index] = (used + size, members)
                break
        else:
            parts.append((size, [wheel]))
    for number, (_, members) in enumerate(parts, start=1):
        folder = bundle / f"part{number}"
        folder.mkdir()
        for wheel in members:
            wheel.rename(folder / wheel.name)
    print(f"gpu_bundle: {len(parts)} parts")
    return 0


def pack(bundle: Path, dist: Path, archive: Path) -> int:
    """Write what the wheels of both folders install into one compressed file; return a status."""
    if not any(dist.glob("*.whl")):
        print(f"gpu_bundle: there is no wheel in {dist}; build them first", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        wheels = [*sorted(bundle.rglob("*.whl")), *sorted(dist.glob("*.whl"))]
        status = install_wheels(wheels, site, options=for_the_gpu_machine())
        if status != 0:
            return status
        for name in NOT_PACKED:
            shutil.rmtree(site / name, ignore_errors=True)
        with tarfile.open(archive, "w:xz", preset=6) as tar:
            tar.add(site, arcname=".")
    print(f"gpu_bundle: {archive.stat().st_size / MIB:.0f} MiB in {archive}")
    return 0


def install(bundle: Path, site: Path) -> int:
    """Unpack a folder of wheels, or what `pack` wrote, into `site`; return a status."""
    if bundle.is_file():
        with tarfile.open(bundle) as tar:
            tar.extractall(site, filter="tar")
        print(f"gpu_bundle: {bundle} is in {site}; now PYTHONPATH={site}")
        return 0
    status = install_wheels(sorted(bundle.rglob("*.whl")), site)
    if status == 0:
        print(f"gpu_bundle: {bundle} is in {site}; now PYTHONPATH={site}")
    return status


def install_wheels(wheels: Sequence[Path], site: Path, *, options: Sequence[str] = ()) -> int:
    """Install wheels into `site`, beside what is there, with the stand-ins; return pip's status."""
    if not wheels:
        print("gpu_bundle: there is no wheel to install", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--upgrade", "--disable-pip-version-check"]
    command += [*options, "--target", str(site), *map(str, wheels)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        return status
    for name, text in STANDINS.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text, encoding="utf-8")
    return 0


# SGLang imports these at start and needs them for notebooks and audio only.
STANDINS = {
    "IPython/__init__.py": '"""Stands in for IPython, which a server does not use."""\n',
    "IPython/display.py": '"""Stands in for its displays."""\n\nHTML = display = None\n',
    "soundfile.py": '"""Stands in for soundfile, which a text model does not use."""\n',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="download the wheels")
    making.add_argument("bundle", type=Path, metavar="BUNDLE")
    making.add_argument("--part-mib", type=int, default=None, metavar="N")
    packing = commands.add_parser("pack", help="put them and others into one file")
    packing.add_argument("bundle", type=Path, metavar="BUNDLE")
    packing.add_argument("dist", type=Path, metavar="DIST")
    packing.add_argument("archive", type=Path, metavar="ARCHIVE")
    installing = commands.add_parser("install", help="unpack them, offline")
    installing.add_argument("bundle", type=Path, metavar="BUNDLE")
    installing.add_argument("site", type=Path, metavar="SITE")
    given = parser.parse_args(arguments)
    if given.command == "make":
        return make(given.bundle, part_mib=given.part_mib)
    if given.command == "pack":
        return pack(given.bundle, given.dist, given.archive)
    return install(given.bundle, given.site)


if __name__ == "__main__":
    sys.exit(main())

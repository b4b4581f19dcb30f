"""Install what is in `dist/` as a user would, and use it: `hatch run dist:check`.

1. Every wheel holds `py.typed`, a licence expression and no tests.
2. `pip install 'scripted-core[chunked]'` in a fresh environment brings no torch and no engine, and
   what it brings can be imported and run.
3. `pip install 'scripted-core[reference]'` there runs a script.
4. Every wheel asks for its siblings by a range with both ends, and what was built lies in it.
5. Every extra of every package can be resolved, so that the version ranges between the packages,
   which an editable workspace never looks at, are right.
"""

from __future__ import annotations

import email
import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement
from workspace import DIST, ROOT, Package, packages

PINS = ROOT / "constraints/default.txt"
SCRIPT = """
import pytest
from scripted_chunked import base_engine_kwargs, run_until_finished


@pytest.mark.scripted(**base_engine_kwargs(chunked_prefill_size=64))
def test_finishes(t):
    r = t.start_req(prompt_len=200, seed=1, max_new_tokens=4, ignore_eos=True)
    yield from run_until_finished(r)
    assert len(r.output_ids) == 4
"""
FORBIDDEN = ("torch", "sglang", "vllm")


class Environment:
    """A fresh virtual environment that sees nothing of the workspace but `dist/`."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self._folder = folder
        self._python = folder / "bin" / "python"

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run this environment's Python; a failure ends the check with its output."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environ["PATH"] = f"{self._folder / 'bin'}{os.pathsep}{environ.get('PATH', '')}"
        done = subprocess.run(
            [str(self._python), *arguments],
            cwd=cwd or self._folder,
            env=environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(f"failed: python {' '.join(arguments)}\n{done.stdout}")
        return done.stdout

    def pip_install(self, *arguments: str) -> None:
        """Install from `dist/` and the usual index."""
        self.run("-m", "pip", "install", "--quiet", "--find-links", str(DIST), *arguments)


def check_contents(package: Package) -> None:
    """Fail unless the wheel of `package` is whole."""
    wheels = list(DIST.glob(f"{package.import_name}-*.whl"))
    if len(wheels) != 1:
        sys.exit(f"{package.name}: {len(wheels)} wheels in dist/; run `hatch run dist:build`")
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = wheel.namelist()
        metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
        text = wheel.read(metadata).decode()
    problems = [f"no {package.import_name}/py.typed"] * (
        f"{package.import_name}/py.typed" not in names
    )
    problems += ["no licence"] * ("License-Expression: Apache-2.0" not in text)
    problems += [f"a stray {name}" for name in names if "/tests/" in name or ".mypy_cache" in name]
    if problems:
        sys.exit(f"{wheels[0].name}: {', '.join(problems)}")


def check_sibling_ranges(found: Sequence[Package]) -> None:
    """Each wheel asks for siblings by a range with both ends, in which the built sibling lies."""
    versions: dict[str, str] = {}
    required: dict[str, list[Requirement]] = {}
    for package in found:
        (wheel,) = DIST.glob(f"{package.import_name}-*.whl")
        with zipfile.ZipFile(wheel) as opened:
            name = next(one for one in opened.namelist() if one.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(opened.read(name))
        versions[package.name] = str(metadata["Version"])
        lines = metadata.get_all("Requires-Dist", [])
        required[package.name] = [Requirement(str(line)) for line in lines]
    problems = []
    for owner, requirements in required.items():
        for one in requirements:
            if one.name not in versions or one.name == owner:
                continue
            ends = {specifier.operator for specifier in one.specifier}
            if not {">=", "<"} <= ends:
                problems.append(f"{owner} asks for {one} and not for a range >=…,<…")
            elif not one.specifier.contains(versions[one.name], prereleases=True):
                problems.append(f"{owner} asks for {one}, and {versions[one.name]} was built")
    if problems:
        sys.exit("version ranges between siblings:\n  " + "\n  ".join(problems))


def check_light_install(environment: Environment) -> None:
    """`scripted-core[chunked]` without torch and without an engine."""
    environment.pip_install("scripted-core[chunked]")
    environment.run("-c", "import scripted_core, scripted_chunked, scripted_exhausters")
    environment.run("-m", "pip", "check")
    installed = environment.run("-m", "pip", "list", "--format=freeze").lower().split()
    heavy = [line for line in installed if line.partition("==")[0] in FORBIDDEN]
    if heavy:
        sys.exit(f"scripted-core[chunked] brings {', '.join(heavy)}")
    program = str(environment_program(environment, "scripted"))
    environment.run(program, "--help")
    environment.run(program, "list")


def environment_program(environment: Environment, name: str) -> Path:
    """Where the entry point `name` was installed."""
    where = "import sysconfig; print(sysconfig.get_path('scripts'))"
    return Path(environment.run("-c", where).strip()) / name


def check_reference_install(environment: Environment, folder: Path) -> None:
    """`scripted-core[reference]` runs a script as a pytest test, and by the command."""
    environment.pip_install("scripted-core[reference]")
    (folder / "test_installed.py").write_text(SCRIPT, encoding="utf-8")
    environment.run("-m", "pytest", "-q", "test_installed.py", cwd=folder)
    program = str(environment_program(environment, "scripted"))
    environment.run(program, "run", "test_installed.py", cwd=folder)


def check_resolution(environment: Environment, names: Sequence[str]) -> None:
    """Each of `names` can be resolved from `dist/` and the usual index."""
    dry_run = ("--dry-run", "--ignore-installed", "--no-deps")
    for name in names:
        # Pinned, since an open range of torch means its newest build and gigabytes of CUDA.
        environment.pip_install("--dry-run", "--constraint", str(PINS), name)
        print(f"  {name}", flush=True)
    # The wheels themselves, never something newer of the same name from an index.
    environment.pip_install(*dry_run, *map(str, sorted(DIST.glob("*.whl"))))


def main() -> None:
    """Run every check; the first failure is the exit status and the message."""
    found = packages()
    for package in found:
        check_contents(package)
    print(f"contents of {len(found)} wheels: good", flush=True)
    check_sibling_ranges(found)
    print("version ranges between siblings: good", flush=True)
    with tempfile.TemporaryDirectory(prefix="scripted-dist-") as temporary:
        folder = Path(temporary)
        environment = Environment(folder / "environment")
        check_light_install(environment)
        print("scripted-core[chunked] without torch: good", flush=True)
        check_reference_install(environment, folder)
        print("scripted-core[reference] runs a script: good", flush=True)
        print("can be resolved:", flush=True)
        check_resolution(
            environment,
            [f"{package.name}[{extra}]" for package in found for extra in package.extras]
            + [package.name for package in found],
        )


if __name__ == "__main__":
    main()

"""What somebody needs who writes a package of their own, tried out: `hatch run authors:check`.

Everything is installed from `dist/` into fresh environments that see nothing else of this workspace:

1. `docs/authors.md` is followed word for word: its files are written, its commands run.
2. The template's output is generated for each of its kinds, installed and tested, and shows in
   `scripted list` and in the CI listing.
3. `examples/thirdparty` is installed, and adds what it brings with no other change.
4. The tests of the packages without torch run against the wheels.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from check_wheels import PINS, Environment, environment_program
from guide import GUIDE, as_shell, files_of, generate, stale_files
from workspace import DIST, ROOT

MOST_ADAPTER_LINES = 300
KINDS = {"engine": "toyline", "exhauster": "share", "kit": "echo", "backend": "small"}
"""The kinds of the template, each with a name of its own: they are installed side by side."""
THIRD_PARTY = ROOT / "examples" / "thirdparty"
TESTED_FROM_WHEELS = (
    "packages/exhausters/tests",
    "packages/chunked/tests",
    "packages/hook/tests/test_hook_invariants.py",
    "packages/hook/tests/test_hook_in_process_session.py",
    "packages/hook/tests/test_hook_conformance.py",
    "packages/backends/single/tests/test_single_lifecycle.py",
    "packages/backends/single/tests/test_single_requests.py",
)


def follow_the_guide(folder: Path) -> None:
    """Run the guide; it has to show the template's files, and to end well."""
    generated = folder / "generated"
    generate("engine", "acme", generated)
    stale = stale_files(generated)
    if stale:
        sys.exit(
            f"{GUIDE.name} does not show what the template generates: {', '.join(stale)}\n"
            "hint: hatch run authors:guide"
        )
    shown = files_of(GUIDE.read_text(encoding="utf-8"))
    lines = sum(
        text.count("\n")
        for file, text in shown.items()
        if file.endswith(("adapter.py", "plugin.py"))
    )
    if lines >= MOST_ADAPTER_LINES:
        sys.exit(f"the guide's adapter has {lines} lines; it promises under {MOST_ADAPTER_LINES}")
    reader = folder / "reader"
    reader.mkdir()
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        ["bash", "-c", as_shell(GUIDE.read_text(encoding="utf-8"))],
        cwd=reader,
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(
            f"{GUIDE.name}, followed word for word, ends with {done.returncode}\n{done.stdout}"
        )
    print(f"{GUIDE.name}, word for word: good, an adapter of {lines} lines", flush=True)


def installed(environment: Environment) -> dict[str, set[str]]:
    """Names of what `scripted list` shows, by kind."""
    program = str(environment_program(environment, "scripted"))
    found = json.loads(environment.run(program, "list", "--json"))
    return {kind: {one["name"] for one in rows} for kind, rows in found.items()}


def added(before: dict[str, set[str]], after: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is there and was not before."""
    return {kind: names - before[kind] for kind, names in after.items() if names - before[kind]}


def install_and_test(
    environment: Environment, package: Path, *, expected: dict[str, set[str]]
) -> None:
    """Install a package; exactly `expected` appears, its tests pass and CI knows where they run."""
    before = installed(environment)
    environment.pip_install("--no-build-isolation", f"{package}[test]")
    seen = added(before, installed(environment))
    if seen != expected:
        sys.exit(f"{package.name}: installing it added {seen}, and not {expected}")
    environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=package)
    listing = environment.run("-m", "scripted_registry", "tests", cwd=package)
    for stage in expected.get("stages", set()):
        if stage not in listing:
            sys.exit(f"{package.name}: its stage {stage!r} is not in the CI listing\n{listing}")


def check_template(environment: Environment, folder: Path) -> None:
    """Each kind of the template, one after the other in one environment."""
    kinds_of = {"engine": "engines", "exhauster": "exhausters", "kit": "kits"}
    for kind, name in KINDS.items():
        begun = time.monotonic()
        package = folder / f"template-{kind}"
        generate(kind, name, package)
        stages = {name, f"{name}-sglang"} if kind == "backend" else {name}
        expected = {"stages": stages}
        if kind in kinds_of:
            expected[kinds_of[kind]] = {name}
        install_and_test(environment, package, expected=expected)
        print(f"template, {kind}: good ({time.monotonic() - begun:.0f} s)", flush=True)


def check_third_party(environment: Environment) -> None:
    """The example of a stranger's package; a copy, so that nothing is left in the repository."""
    expected = {
        "stages": {"lighthouse"},
        "kits": {"lighthouse-blink"},
        "exhausters": {"fog"},
    }
    install_and_test(environment, THIRD_PARTY, expected=expected)
    print(f"{THIRD_PARTY.relative_to(ROOT)}: good", flush=True)


def check_packages(environment: Environment, tests: Sequence[str]) -> None:
    """Tests of this repository against the wheels."""
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    environment.run(*command, cwd=ROOT)
    print(f"tests of the packages against the wheels: good ({', '.join(tests)})", flush=True)


def main() -> None:
    """Run every check; the first failure is the exit status and the message."""
    if not list(DIST.glob("*.whl")):
        sys.exit("dist/ has no wheels; run `hatch run dist:build`")
    tests = sys.argv[1:] or TESTED_FROM_WHEELS
    # The fresh environments get what this repository is tested with, not what came out today.
    os.environ["PIP_CONSTRAINT"] = PINS.as_uri()
    with tempfile.TemporaryDirectory(prefix="scripted-authors-") as temporary:
        folder = Path(temporary)
        follow_the_guide(folder)
        environment = Environment(folder / "environment")
        # hypothesis and hatchling are for the tests and the builds, as in a developer's environment.
        environment.pip_install("scripted-core[chunked,reference]", "hypothesis", "hatchling")
        check_template(environment, folder)
        check_third_party(environment)
        check_packages(environment, tests)


if __name__ == "__main__":
    main()

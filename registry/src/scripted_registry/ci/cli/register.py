"""`register` and `list`: what is registered, as a table, as JSON, and as generated files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

PathsArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="Only the tests in these files and folders; the repository by default."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="A test file that nobody registered is an error.")
]


def list_registered(
    paths: PathsArgument = None, as_json: JsonOption = False, strict: StrictOption = False
) -> None:
    """List the CI stages that packages register, with the tests in each.

    Stages come from every installed distribution, and from the packages of the repository that its
    pyproject.toml names. Tests are found by reading their `register_cpu_ci(...)`,
    `register_cuda_ci(...)` and `register_ci(...)` calls, without importing them. Hidden folders,
    virtual environments and build outputs are not read.

    Example: `python -m scripted_registry list packages/core/tests`

    Exit status: 0; 2 when a plugin or a registration is wrong, with the reason on stderr.
    """
    from scripted_registry.ci.cli._table import print_listing
    from scripted_registry.ci.collect import collect

    collected = collect(Path(), only=paths, strict=strict)
    if as_json:
        typer.echo(json.dumps(collected.listing.as_dict(), indent=2))
    else:
        print_listing(collected.listing)
    collected.listing.check()


def register(
    paths: PathsArgument = None,
    as_json: JsonOption = False,
    strict: StrictOption = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 when a file is stale.")
    ] = False,
) -> None:
    """Collect all stages, runners and registered tests, and write what CI runs from them.

    Writes `ci/manifest.json`, `.github/workflows/stages.yml` and `ci/buildkite.yml`, and prints how each
    stage is divided: by the times in `ci/timings.json`, for tests that were never timed by what they
    registered. With PATHS it only lists, since the files are of the whole repository.

    Example: `python -m scripted_registry register --check --strict`

    Exit status: 0; 1 when `--check` finds a stale file; 2 when a plugin or a registration is wrong.
    """
    if paths:
        list_registered(paths=paths, as_json=as_json, strict=strict)
        typer.echo("nothing was written: the files are of the whole repository", err=True)
        return
    from scripted_registry.ci.build import build_manifest
    from scripted_registry.ci.cli._table import print_error, print_manifest
    from scripted_registry.ci.collect import collect
    from scripted_registry.ci.errors import StaleFilesError
    from scripted_registry.ci.generated import (
        check_files,
        generated_files,
        write_files,
    )
    from scripted_registry.ci.manifest import TIMINGS_PATH
    from scripted_registry.ci.timings import read_timings

    root = Path()
    collected = collect(root, strict=strict)
    timings = read_timings(root / TIMINGS_PATH)
    manifest = build_manifest(collected.listing, settings=collected.settings, timings=timings)
    if as_json:
        typer.echo(manifest.as_json(), nl=False)
    else:
        print_manifest(manifest, timings)
    collected.listing.check()
    files = generated_files(manifest, collected.settings)
    if check:
        try:
            check_files(root, files)
        except StaleFilesError as error:
            print_error(error)
            raise typer.Exit(1) from None
        typer.echo(f"fresh: {', '.join(path.as_posix() for path in files)}", err=as_json)
        return
    for written in write_files(root, files):
        state = "written" if written.changed else "unchanged"
        typer.echo(f"{written.path.as_posix()}: {state}", err=as_json)

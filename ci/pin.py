"""Write `constraints/<name>.txt` from what is installed in an environment of hatch.toml."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
SHARED = {"default": "`default` and `hatch-test`"}


def header(environment: str) -> str:
    """Return the comment at the top of a constraints file."""
    used_by = SHARED.get(environment, f"`{environment}`")
    return (
        f"# Exact versions in the environment {used_by} of hatch.toml.\n"
        f"# Written by: hatch run dist:pin {environment} --upgrade\n"
    )


def main(
    environment: Annotated[str, typer.Argument(help="An environment of hatch.toml.")],
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Make the environment afresh, unpinned, first.")
    ] = False,
) -> None:
    """Record the versions that are installed in an environment in its constraints file.

    The workspace's own distributions are left out: they are installed from their folders.

    Example: `hatch run dist:pin lint --upgrade`
    """
    target = ROOT / "constraints" / f"{environment}.txt"
    if upgrade:
        target.write_text(header(environment), encoding="utf-8")
        subprocess.run(["hatch", "env", "remove", environment], cwd=ROOT, check=True)
    command = ["hatch", "run", f"{environment}:python", "ci/list_installed.py"]
    listed = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE)
    target.write_text(header(environment) + listed.stdout, encoding="utf-8")
    typer.echo(f"{target.relative_to(ROOT)}: {len(listed.stdout.split())} pins")


if __name__ == "__main__":
    typer.run(main)

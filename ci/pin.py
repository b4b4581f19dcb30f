"""Write `constraints/<name>.txt` from what is installed in a hatch environment.

    python ci/pin.py default            # record what is installed now
    python ci/pin.py lint --upgrade     # resolve afresh first, then record

The workspace's own distributions are left out: they are installed from their folders.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
SHARED = {"default": "`default` and `hatch-test`"}
# Runs inside the environment, with whatever installer that has. An editable distribution is ours.
LIST_INSTALLED = """
import importlib.metadata as metadata, json
for distribution in metadata.distributions():
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable") and distribution.name not in ("pip", "uv"):
        print(f"{distribution.name}=={distribution.version}")
"""


def header(environment: str) -> str:
    """Return the comment at the top of a constraints file."""
    used_by = SHARED.get(environment, f"`{environment}`")
    return (
        f"# Exact versions in the environment {used_by} of hatch.toml.\n"
        f"# Written by: python ci/pin.py {environment} --upgrade\n"
    )


def pins(environment: str) -> list[str]:
    """Return the sorted `name==version` lines of everything in `environment` that is not ours."""
    listed = subprocess.run(
        ["hatch", "run", f"{environment}:python", "-c", LIST_INSTALLED],
        cwd=ROOT,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    return sorted(set(listed.stdout.split()), key=str.lower)


def main(
    environment: Annotated[str, typer.Argument(help="An environment of hatch.toml.")],
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Make the environment afresh, unpinned, first.")
    ] = False,
) -> None:
    """Record the versions of an environment in its constraints file."""
    target = ROOT / "constraints" / f"{environment}.txt"
    if upgrade:
        target.write_text(header(environment), encoding="utf-8")
        subprocess.run(["hatch", "env", "remove", environment], cwd=ROOT, check=True)
    lines = pins(environment)
    target.write_text(header(environment) + "\n".join(lines) + "\n", encoding="utf-8")
    typer.echo(f"{target.relative_to(ROOT)}: {len(lines)} pins")


if __name__ == "__main__":
    typer.run(main)

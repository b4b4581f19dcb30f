"""What the KV canary finds and what it costs: ``hatch run canary-figures``.

Breaks slots, tables and tokens of the reference engine, thousands of each kind, verifies a million slots
of which none is broken, and times a decode step. Prints Markdown; ``--json FILE`` writes it as JSON too.
Exit status 1 when something that had to be found was not, or anything else was reported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from scripted_canary.perturb import PerturbKind
from scripted_canary.settings import RealData
from scripted_core.errors import ScriptedError


def main(
    perturbations: Annotated[int, typer.Option(min=0, help="Of each kind.")] = 2000,
    clean_slots: Annotated[int, typer.Option(min=0, help="Verified with none broken.")] = 10**6,
    cost_steps: Annotated[int, typer.Option(min=0, help="Decode steps timed, twice.")] = 32,
    kind: Annotated[list[PerturbKind] | None, typer.Option(help="Only this kind.")] = None,
    model: Annotated[str, typer.Option(help="Whose slots are broken: hash or tiny.")] = "hash",
    real_data: Annotated[RealData, typer.Option(help="What is hashed.")] = RealData.ALL,
    seed: Annotated[int, typer.Option(help="Of everything that is random.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it there too.")] = None,
) -> None:
    """Measure the canary on the reference engine."""
    # Each of thousands of violations is a warning otherwise; it is read when the canary is imported.
    os.environ.setdefault("SCRIPTED_LOG_LEVEL", "error")
    from bench.canary_table import Sizes, measure

    sizes = Sizes(perturbations=perturbations, clean_slots=clean_slots, cost_steps=cost_steps)
    try:
        figures = measure(
            sizes, kinds=kind or list(PerturbKind), model=model, real_data=real_data, seed=seed
        )
    except ScriptedError as error:
        print(f"canary-figures: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    figures.print()
    if json_file is not None:
        figures.write(json_file)
    if figures.missed or figures.alarms:
        print(
            f"canary-figures: {figures.missed} missed, {figures.alarms} false alarms",
            file=sys.stderr,
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)

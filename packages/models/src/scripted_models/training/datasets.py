"""The held-out datasets: `python -m scripted_models.training.datasets --out FOLDER`."""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from scripted_models.training.facts import HELD_OUT_FACTS
from scripted_models.training.recall import RecallItem, held_out_item
from scripted_models.training.scenes import held_out_items
from scripted_models.training.text import write_filler

ITEMS: Final = 200
SEED: Final = 7
_RECALL_PAIRS: Final = 8
_RECALL_DISTANCES: Final = (256, 480)


def facts() -> list[dict[str, Any]]:
    """Return every fact in the phrasing that training left out."""
    return [asdict(fact) for fact in HELD_OUT_FACTS]


def recall() -> list[dict[str, Any]]:
    """Return questions about held-out pairs, told at least 256 tokens before."""
    rng = random.Random(SEED)
    items: list[RecallItem] = [
        held_out_item(
            rng,
            pairs=_RECALL_PAIRS,
            distance=rng.randint(*_RECALL_DISTANCES),
            filler=write_filler,
        )
        for _ in range(ITEMS)
    ]
    return [asdict(item) for item in items]


def hellaswag() -> list[dict[str, Any]]:
    """Return held-out scenes with four endings each."""
    return [asdict(item) for item in held_out_items(random.Random(SEED), items=ITEMS)]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the three files; the same content each time."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSONL files")
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    for name, items in {"facts": facts(), "recall": recall(), "hellaswag": hellaswag()}.items():
        _write_lines(out / f"{name}.jsonl", items)


def _write_lines(path: Path, items: Iterable[dict[str, Any]]) -> None:
    lines = [json.dumps(item) + "\n" for item in items]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()

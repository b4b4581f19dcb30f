"""Where the package data is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

CHECKPOINTS: Final = ("tiny", "tiny-draft")
DATASETS: Final = ("facts", "recall", "hellaswag")
_PACKAGE: Final = Path(__file__).parent


class UnknownCheckpoint(ValueError):
    """There is no checkpoint of that name in this package."""


class UnknownDataset(ValueError):
    """There is no dataset of that name in this package."""


def checkpoint(name: str) -> Path:
    """Return the folder of a checkpoint in Hugging Face format, one of `CHECKPOINTS`.

    Raises `UnknownCheckpoint` for another name.
    """
    if name not in CHECKPOINTS:
        raise UnknownCheckpoint(f"no checkpoint {name!r}; there are {_listed(CHECKPOINTS)}")
    return _PACKAGE / "checkpoints" / name


def dataset(name: str) -> Path:
    """Return the JSONL file of a dataset, one of `DATASETS`; each line is an object.

    "facts" and "recall" have `prompt` and `answer` (the next word), "recall" also `distance` in
    tokens from the answer's statement to the question; "hellaswag" has `ctx`, `endings` (four) and
    `label`, the index of the right one. Raises `UnknownDataset` for another name.
    """
    if name not in DATASETS:
        raise UnknownDataset(f"no dataset {name!r}; there are {_listed(DATASETS)}")
    return _PACKAGE / "datasets" / f"{name}.jsonl"


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(repr(name) for name in names)

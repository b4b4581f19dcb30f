"""Small trained checkpoints and the held-out text they are measured on, as package data."""

from __future__ import annotations

from scripted_models._catalogue import (
    CHECKPOINTS,
    DATASETS,
    UnknownCheckpoint,
    UnknownDataset,
    checkpoint,
    dataset,
)
from scripted_models._version import __version__

__all__ = [
    "CHECKPOINTS",
    "DATASETS",
    "UnknownCheckpoint",
    "UnknownDataset",
    "__version__",
    "checkpoint",
    "dataset",
]

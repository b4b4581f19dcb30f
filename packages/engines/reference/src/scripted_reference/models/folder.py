"""Where a model's files are, and how its JSON files are read."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from scripted_registry.errors import ConfigError

from scripted_reference.args import TINY_DRAFT_MODEL, TINY_MODEL

_LEAST_POSITIONS: Final = 2
"""One for a prompt and one for what follows it."""


def model_folder(model_path: str) -> Path:
    """Return the folder that `model_path` names: that of a checkpoint of scripted-models, or itself.

    Raises `ConfigError` when there is no such folder, or when the checkpoint is not installed.
    """
    if model_path in (TINY_MODEL, TINY_DRAFT_MODEL):
        return _tiny_checkpoint(model_path)
    folder = Path(model_path).expanduser()
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(
            f"the model folder {folder} {problem}",
            hint="give a folder in Hugging Face format, 'hash' or 'tiny'; nothing is downloaded",
        )
    return folder


def model_context_len(model_path: str) -> int | None:
    """Return how many positions the model was made for; `None` if its config does not say.

    Raises `ConfigError` as `model_folder` does, for a config that is no JSON object, and for a number of
    positions that is none.
    """
    config = model_folder(model_path) / "config.json"
    if not config.is_file():
        return None
    positions = read_json(config).get("max_position_embeddings")
    if positions is None:
        return None
    if (
        isinstance(positions, bool)
        or not isinstance(positions, int)
        or positions < _LEAST_POSITIONS
    ):
        wanted = f"a whole number from {_LEAST_POSITIONS} on"
        raise ConfigError(
            f"{config}: max_position_embeddings={positions!r} is not {wanted}",
            hint=f"use {wanted}, or leave it out",
        )
    return positions


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; `ConfigError` when it cannot be read or is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}",
            hint="check the file's permissions, or copy the model again",
        ) from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} is nested too deeply to be read",
            hint="copy the model again, or repair the file",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not valid JSON: {error}", hint="copy the model again, or repair the file"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds {type(content).__name__}, not a JSON object",
            hint="copy the model again, or repair the file",
        )
    return content


def is_positive_number(value: object) -> bool:
    """Return whether a JSON value is a number above 0 that a float can hold."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 < value <= sys.float_info.max
    )


def _tiny_checkpoint(name: str) -> Path:
    try:
        models = importlib.import_module("scripted_models")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the model {name!r} is not installed",
            hint="pip install 'scripted-reference[tiny]', which brings torch and the checkpoint",
        ) from error
    return Path(models.checkpoint(name))

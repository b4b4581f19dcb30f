"""How far the sliding-window layers of a model see, known before the model is loaded."""

from __future__ import annotations

from typing import Final

from scripted_registry.errors import ConfigError

from scripted_reference.args import HASH_MODEL, ServerArgs

LEAST_WINDOW: Final = 2
"""A token and the one before it."""


def sliding_window(args: ServerArgs) -> int | None:
    """Return how many tokens such a layer sees, the newest included; `None` if no layer is one.

    Raises `ConfigError` for an impossible one, and for whatever is wrong with the model's config.
    """
    if args.model_path == HASH_MODEL:
        return _hash_window(args)
    from scripted_reference.models.config import CONFIG_FILE, read_config
    from scripted_reference.models.folder import model_folder

    folder = model_folder(args.model_path)
    if not (folder / CONFIG_FILE).is_file():
        return None  # whoever loads the model says what is missing
    return read_config(folder, overrides=args.json_model_override_args).sliding_window


def _hash_window(args: ServerArgs) -> int | None:
    overrides = dict(args.json_model_override_args)
    window = overrides.pop("sliding_window", None)
    if overrides:
        raise ConfigError(
            f"json_model_override_args has {', '.join(map(repr, sorted(overrides)))}, which the "
            f"model {HASH_MODEL!r} does not know",
            hint='it knows {"sliding_window": 32}',
        )
    if window is None:
        return None
    if isinstance(window, bool) or not isinstance(window, int) or window < LEAST_WINDOW:
        raise ConfigError(
            f"json_model_override_args: sliding_window={window!r} is no window",
            hint=f"use a whole number from {LEAST_WINDOW} on, or null for none",
        )
    return window

"""Hooks of plugins that are called while a script runs: what breaks in one is the plugin's fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from scripted_core.errors import PluginError, ScriptedError


@contextlib.contextmanager
def plugin_errors(hook: str) -> Iterator[None]:
    """Turn an exception of a plugin into a ``PluginError``, which no expectation of a script is.

    An error of our own tree is let through: a plugin that raises one means it.
    """
    try:
        yield
    except ScriptedError:
        raise
    except Exception as error:
        raise PluginError(
            f"a plugin's {hook} failed: {type(error).__name__}: {error}",
            hint="the traceback names the plugin; leave it out with SCRIPTED_DISABLE_PLUGINS",
        ) from error

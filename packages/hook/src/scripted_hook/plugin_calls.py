"""Hooks of plugins that are called while a script runs: what breaks in one is the plugin's fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from scripted_core.errors import PluginError, ScriptedError
from scripted_core.views import ScriptedBatchRecord
from scripted_registry import PluginManager, get_plugin_manager


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


def announce_engine(port: object) -> None:
    """An engine of this process is built, and has not run yet: tell plugins. Raises ``PluginError``.

    An engine calls it once in each process that has a scheduler.
    """
    plugins = get_plugin_manager()
    if plugins.has_impls("scripted_engine_built"):
        with plugin_errors("scripted_engine_built"):
            plugins.hook.scripted_engine_built(port=port)


class PluginCalls:
    """The hooks of an iteration; one without an implementation costs nothing."""

    def __init__(self, plugins: PluginManager) -> None:
        self._hook = plugins.hook
        self._on_step_used = plugins.has_impls("scripted_on_step")
        self._on_batch_used = plugins.has_impls("scripted_on_batch")

    def on_reset(self, context: Any) -> None:
        """The engine is empty, and the script about to begin. Raises ``PluginError``."""
        with plugin_errors("scripted_on_reset"):
            self._hook.scripted_on_reset(context=context)

    def on_step(self, step: int) -> None:
        """An iteration has ended. Raises ``PluginError``."""
        if self._on_step_used:
            with plugin_errors("scripted_on_step"):
                self._hook.scripted_on_step(step=step)

    def on_batch(self, record: ScriptedBatchRecord) -> ScriptedError | None:
        """A batch goes to the model. Returns what went wrong: here it would end the engine's loop."""
        if self._on_batch_used:
            try:
                with plugin_errors("scripted_on_batch"):
                    self._hook.scripted_on_batch(record=record)
            except ScriptedError as error:
                return error
        return None

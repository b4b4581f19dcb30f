"""The portable scripts of a folder, as pytest collects them."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from scripted_registry.errors import ConfigError

_PROVIDED: Final = frozenset({"t", "scripted_session", "scripted_backend", "request"})
_ENGINES: Final = (None, "reference")
_TORCH: Final = frozenset({"logprobs", "lora"})
"""Capabilities for whose sake a script is run on a model that takes its time."""


@dataclass(frozen=True, kw_only=True)
class PortableScript:
    """One script with its parameters.

    Attributes:
        name: its node id from the file's name on.
        function: the generator function.
        arguments: the values of its parameters besides `t`.
        engine_kwargs: the engine arguments of its marks.
        requires: the capabilities that it asks for.
        skipped: why it is not run here, or `None`.
    """

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]
    engine_kwargs: Mapping[str, Any]
    requires: frozenset[str]
    skipped: str | None


class _Collector:
    """Keeps what pytest collected."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """The items are there."""
        self.items = list(session.items)


def portable_scripts(folder: Path) -> list[PortableScript]:
    """Collect the scripts below `folder` that run on the embedded engine with its checks on.

    `ConfigError` when there is no such folder, or when pytest cannot collect it.
    """
    if not folder.exists():
        raise ConfigError(
            f"there are no scripts in {folder}",
            hint="run it from the root of the repository, or give --scripts FOLDER",
        )
    collector = _Collector()
    arguments = ["--collect-only", "--scripted-backend", "reference", str(folder)]
    arguments += ["-qq", "--capture=no", "-p", "no:cacheprovider", "-p", "no:xdist"]
    arguments += ["-p", "no:faulthandler"]
    # This process may have imported what pytest would like to rewrite first: no matter here.
    arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = pytest.main(arguments, plugins=[collector])
    if status != pytest.ExitCode.OK:
        raise ConfigError(
            f"pytest could not collect {folder} (exit status {int(status)}):\n{said.getvalue()}",
            hint=f"see what pytest --collect-only {folder} says",
        )
    scripts = [_script(item) for item in collector.items if isinstance(item, pytest.Function)]
    found = [script for script in scripts if script is not None]
    # The matrix is long and general; what is written for one thing finds it sooner.
    return sorted(found, key=lambda script: "matrix" in script.name)


def _script(item: pytest.Function) -> PortableScript | None:
    if item.cls is not None or not inspect.isgeneratorfunction(item.obj):
        return None
    values = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    if not _PROVIDED.union(values).issuperset(inspect.signature(item.obj).parameters):
        return None
    if values.pop("scripted_backend", None) not in _ENGINES:
        return None
    if any(not mark.kwargs.get("check_invariants", True) for mark in _marks(item, "_options")):
        return None
    engine_kwargs: dict[str, Any] = {}
    for mark in reversed(_marks(item, "")):
        engine_kwargs.update(mark.kwargs)
    requires = frozenset(name for mark in _marks(item, "_requires") for name in mark.args)
    if engine_kwargs.get("model_path") == "tiny" and not requires & _TORCH:
        return None
    skip = item.get_closest_marker("skip")
    return PortableScript(
        name=item.nodeid.rpartition("/")[2],
        function=item.obj,
        arguments={
            name: value
            for name, value in values.items()
            if name in inspect.signature(item.obj).parameters
        },
        engine_kwargs=engine_kwargs,
        requires=requires,
        skipped=None if skip is None else str(skip.kwargs.get("reason", "it is skipped")),
    )


def _marks(item: pytest.Item, suffix: str) -> list[pytest.Mark]:
    return list(item.iter_markers(f"scripted{suffix}"))

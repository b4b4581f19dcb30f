"""From `FILE[:NAME]` to the scripts in that file, with what their marks ask for."""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from scripted_core.cli.text import closest
from scripted_core.errors import ConfigError, ScriptNotImportable
from scripted_core.scripts.rewrite import compile_rewritten, install_comparison_details

PREFIXES = ("script_", "test_")
ENGINE_KWARGS = "ENGINE_KWARGS"
_OPTIONS = ("check_invariants", "timeout_s", "stall_timeout_s")


@dataclass(frozen=True, kw_only=True)
class FoundScript:
    """One script: the function, its engine's arguments, what it requires, how it is run."""

    name: str
    function: Callable[..., Any]
    engine_kwargs: dict[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FoundScripts:
    """The scripts of a file, and the names of those that only pytest can run, with the reason."""

    path: Path
    scripts: tuple[FoundScript, ...]
    left_out: dict[str, str]


def find_scripts(target: str) -> FoundScripts:
    """Load `target`, which is ``FILE`` or ``FILE:NAME``, and return what can be run in it.

    Raises ``ConfigError`` when there is no such file or name, or when nothing in it can be run
    without pytest; ``ScriptNotImportable`` when the file does not import.
    """
    path, name = _split(target)
    module = load_module(path)
    candidates = _candidates(module) if name is None else {name: _named(module, name, path)}
    left_out: dict[str, str] = {}
    scripts: list[FoundScript] = []
    for found, function in candidates.items():
        reason = _why_not(function)
        if reason is None:
            scripts.append(_described(module, found, function))
        else:
            left_out[found] = reason
    if not scripts:
        raise _nothing_to_run(path, left_out)
    return FoundScripts(path=path, scripts=tuple(scripts), left_out=left_out)


def load_module(path: Path) -> types.ModuleType:
    """Import the file `path` as a module, its asserts rewritten as pytest does.

    Its own folder is put on ``sys.path``, as for ``python FILE``.
    """
    name = path.stem if path.stem.isidentifier() else "scripted_file"
    if name in sys.modules:
        name = f"scripted_file_{name}"
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    install_comparison_details()
    try:
        exec(compile_rewritten(path.read_bytes(), str(path)), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        where = f"line {error.lineno}: " if isinstance(error, SyntaxError) else ""
        raise ScriptNotImportable(
            f"{path} does not import: {where}{type(error).__name__}: {error}",
            hint=f"`python {path.name}` shows where",
        ) from error
    return module


def _split(target: str) -> tuple[Path, str | None]:
    if Path(target).is_file():
        return Path(target).resolve(), None
    file, separator, name = target.replace("::", ":").rpartition(":")
    if separator and Path(file).is_file():
        return Path(file).resolve(), name
    missing = Path(file if separator and file.endswith(".py") else target)
    raise ConfigError(
        f"{missing} is a folder" if missing.is_dir() else f"there is no file {missing}",
        hint="name a Python file, or one script in it as FILE:NAME",
    )


def _candidates(module: types.ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if name.startswith(PREFIXES)
        and inspect.isgeneratorfunction(value)
        and value.__module__ == module.__name__
        and "t" in inspect.signature(value).parameters
    }


def _named(module: types.ModuleType, name: str, path: Path) -> Callable[..., Any]:
    function: Callable[..., Any] | None = vars(module).get(name)
    if function is None:
        scripts = _candidates(module)
        meant = closest(name, scripts)
        raise ConfigError(
            f"{path.name} has no {name!r}",
            hint=(f"did you mean {meant}? " if meant else "")
            + f"scripts in it: {', '.join(scripts) or 'none'}",
        )
    if not inspect.isgeneratorfunction(function):
        raise ConfigError(
            f"{name!r} in {path.name} is a {type(function).__name__}, not a generator function",
            hint="a script yields at least once: each yield is one scheduler iteration",
        )
    return function


def _why_not(function: Callable[..., Any]) -> str | None:
    if any(mark.name == "parametrize" for mark in _marks(function)):
        return "it is parametrized"
    needed = [
        parameter.name
        for parameter in list(inspect.signature(function).parameters.values())[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    first = next(iter(inspect.signature(function).parameters), None)
    if first != "t":
        return f"its first parameter is {first or 'missing'}, not t"
    return f"it takes fixtures ({', '.join(needed)})" if needed else None


def _nothing_to_run(path: Path, left_out: dict[str, str]) -> ConfigError:
    if not left_out:
        return ConfigError(
            f"{path.name} has no script",
            hint="write a generator function script_…(t) or test_…(t); each yield is one iteration",
        )
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
    first = next(iter(left_out))
    return ConfigError(
        f"nothing in {path.name} can be run without pytest ({reasons})",
        hint=f"run it with pytest: pytest {path.name}::{first}",
    )


def _described(module: types.ModuleType, name: str, function: Callable[..., Any]) -> FoundScript:
    engine_kwargs: dict[str, Any] = dict(vars(module).get(ENGINE_KWARGS, {}))
    requires: list[str] = []
    options: dict[str, Any] = {}
    for mark in [*_marks(module), *_marks(function)]:
        if mark.name == "scripted":
            engine_kwargs.update(mark.kwargs)
        elif mark.name == "scripted_requires":
            requires.extend(map(str, mark.args))
        elif mark.name == "scripted_options":
            unknown = [key for key in mark.kwargs if key not in _OPTIONS]
            if unknown:
                raise ConfigError(
                    f"{name}: pytest.mark.scripted_options does not take {', '.join(unknown)}",
                    hint=f"it takes {', '.join(_OPTIONS)}",
                )
            options.update(mark.kwargs)
    return FoundScript(
        name=name,
        function=function,
        engine_kwargs=engine_kwargs,
        requires=tuple(requires),
        options=options,
    )


def _marks(owner: object) -> list[pytest.Mark]:
    """The marks of a function or module, in the order in which later ones win, as in pytest."""
    marked: Any = vars(owner).get("pytestmark", [])
    given: Iterable[Any] = marked if isinstance(marked, (list, tuple)) else [marked]
    return [
        mark.mark if isinstance(mark, pytest.MarkDecorator) else mark
        for mark in reversed(list(given))
    ]

"""What a repository says about its CI: the table `[tool.scripted.ci]` of its root pyproject.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripted_registry._nearest import listed, nearest
from scripted_registry.errors import ConfigError

_TABLE = "[tool.scripted.ci]"


@dataclass(frozen=True, kw_only=True)
class CiSettings:
    """The settings of one repository.

    `packages` are globs of folders with a pyproject.toml: their plugins are found there, installed
    or not. `tests` are the files and folders that are read for registrations, `exclude` globs of
    what is left out (relative to the root). `environments` are the hatch environments of stages that
    name none, by their engine, and `environment` that of all others; `setup` are, by environment,
    the shell command lines that complete one (see `CiStage.setup`). `prepare` are the command lines
    that come before each generated command on a machine that has nothing but Python, `check` those
    that say whether the generated files are fresh.
    """

    packages: tuple[str, ...] = ()
    tests: tuple[str, ...] = (".",)
    exclude: tuple[str, ...] = ()
    environment: str | None = None
    environments: Mapping[str, str] = field(default_factory=dict)
    setup: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prepare: tuple[str, ...] = ()
    check: tuple[str, ...] = ("python -m scripted_registry register --check",)


def read_settings(root: Path) -> CiSettings:
    """Return the settings of the repository at `root`; the defaults when it has none.

    Raises `ConfigError` for a file that is no TOML, an unknown name or a value of a wrong type.
    """
    path = root / "pyproject.toml"
    table = read_toml(path).get("tool", {}).get("scripted", {}).get("ci", {})
    values: dict[str, Any] = {name: _value(path, name, value) for name, value in table.items()}
    return CiSettings(**values)


def read_toml(path: Path) -> Mapping[str, Any]:
    """Return a TOML file's content, empty when there is no such file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _value(path: Path, name: str, value: object) -> object:
    names = tuple(CiSettings.__dataclass_fields__)
    if name not in names:
        match = nearest(name, names)
        raise ConfigError(
            f"{path}: {_TABLE} has no setting {name!r}; there are: {listed(names)}",
            hint=f"did you mean {match!r}?" if match else "take it out",
        )
    where = f"{path}: {_TABLE} {name}"
    if name == "environment":
        return _text(where, value)
    if name == "environments":
        return {engine: _text(where, one) for engine, one in _table(where, value).items()}
    if name == "setup":
        return {env: _texts(where, several) for env, several in _table(where, value).items()}
    return _texts(where, value)


def _text(where: str, value: object) -> str:
    if isinstance(value, str) and value:
        return value
    raise ConfigError(f"{where} is {value!r}", hint="name a hatch environment, as a string")


def _texts(where: str, value: object) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    raise ConfigError(f"{where} is {value!r}", hint="give a list of strings")


def _table(where: str, value: object) -> Mapping[str, object]:
    if isinstance(value, dict):
        return value
    raise ConfigError(f"{where} is {value!r}", hint="give a table: { name = ... }")

"""What plugins hand over: immutable descriptions of engines, exhausters, kits, reporters and CI.

All are keyword-only. `distribution` is always filled in by the plugin manager, so that every error
and every table can say who brought what; a plugin leaves it alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from scripted_registry._identity import Identity, identity_of, plain_copy
from scripted_registry._nearest import listed
from scripted_registry.errors import ConfigError

# Names appear in command lines, comma-separated variables, suite names and file names.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def _check_name(kind: str, name: object) -> None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{name!r} cannot be the name of {kind}",
            hint="use letters, digits, '-', '_' and '.', beginning with a letter or digit",
        )


class EngineMode(StrEnum):
    """Where an engine runs: in the test process, or as a server of its own."""

    IN_PROCESS = "in_process"
    SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """An engine that sessions can be started on.

    `modes` are the modes it can run in, the default first. `check` says whether it can run here:
    it returns `None` when it can, otherwise what is missing and what to type; it must be quick and
    must not import the engine. `None` for `check` itself means always usable. `remark` is asked of an
    engine that can run, under the same conditions: what a person should know of it, or `None`. `lacks`
    names the capabilities that it cannot have in a configuration, as far as its arguments show: a test
    that needs one is skipped without a start.
    """

    name: str
    summary: str
    modes: tuple[EngineMode, ...]
    check: Callable[[], str | None] | None = None
    distribution: str | None = None
    remark: Callable[[], str | None] | None = None
    lacks: Callable[[EngineConfig], Collection[str]] | None = None

    def __post_init__(self) -> None:
        _check_name("an engine", self.name)
        if not self.modes or not all(isinstance(mode, EngineMode) for mode in self.modes):
            raise ConfigError(
                f"engine {self.name!r}: modes is {self.modes!r}",
                hint="give a tuple of EngineMode members, the default first",
            )

    @property
    def default_mode(self) -> EngineMode:
        """The mode that is taken when none is asked for."""
        return self.modes[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class EngineConfig:
    """One engine configuration: which engine, with what arguments, in which mode, with what seed.

    Two configurations are equal when their `key` is, and then one running engine serves both.
    `kwargs` is copied and read-only. An argument value that has no stable identity (an unhashable
    object other than list, dict, set or tuple) is a `ConfigError` that names the argument.
    """

    engine: str
    kwargs: Mapping[str, object]
    mode: EngineMode
    seed: int = 0
    key: Identity = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_name("an engine", self.engine)
        try:
            mode = EngineMode(self.mode)
        except ValueError:
            raise ConfigError(
                f"engine {self.engine!r}: {self.mode!r} is not a mode",
                hint=f"modes are {listed(EngineMode)}",
            ) from None
        copied: dict[str, object] = {}
        identities: list[Identity] = []
        for name in sorted(self.kwargs, key=str):
            if not isinstance(name, str):
                raise ConfigError(
                    f"engine {self.engine!r}: argument name {name!r} is not a string",
                    hint="engine arguments are keyword arguments",
                )
            try:
                identities.append((name, identity_of(self.kwargs[name])))
            except TypeError as error:
                raise ConfigError(
                    f"engine {self.engine!r}: argument {name!r} cannot be compared: {error}",
                    hint="use numbers, strings, paths, lists, dicts or other hashable values",
                ) from error
            copied[name] = plain_copy(self.kwargs[name])
        object.__setattr__(self, "mode", mode)
        object.__setattr__(self, "kwargs", MappingProxyType(copied))
        object.__setattr__(self, "key", (self.engine, mode.value, self.seed, tuple(identities)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EngineConfig):
            return NotImplemented
        return self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True, kw_only=True)
class ExhausterSpec:
    """Something that takes a resource of the engine down to what a script leaves of it.

    `factory` takes the engine's scheduler and returns an object with `exhaust(**kwargs)` and
    `release()`. `capability` is the engine capability it needs, or `None`.
    """

    name: str
    summary: str
    factory: Callable[[Any], Any]
    capability: str | None = None
    distribution: str | None = None

    def __post_init__(self) -> None:
        _check_name("an exhauster", self.name)


@dataclass(frozen=True, kw_only=True)
class KitSpec:
    """A ready-made set of checks that `run` performs against a running server."""

    name: str
    summary: str
    run: Callable[..., Any]
    distribution: str | None = None

    def __post_init__(self) -> None:
        _check_name("a kit", self.name)


@dataclass(frozen=True, kw_only=True)
class ReporterSpec:
    """A reporter of runs; `factory` builds one."""

    name: str
    summary: str
    factory: Callable[..., Any]
    distribution: str | None = None

    def __post_init__(self) -> None:
        _check_name("a reporter", self.name)


@dataclass(frozen=True, kw_only=True)
class CiRunner:
    """A kind of machine that CI stages run on.

    `labels` select it where a scheduler goes by labels (GitHub Actions); one that goes by queues
    (Buildkite) has a queue of the runner's name. `gpus` is how many a stage on it may use, `backend`
    the kind of device that tests register for (`register_ci(backend=)`): by default "cuda" with
    GPUs and "cpu" without.
    """

    name: str
    summary: str
    labels: tuple[str, ...]
    gpus: int = 0
    distribution: str | None = None
    backend: str = ""

    def __post_init__(self) -> None:
        _check_name("a CI runner", self.name)
        if not self.backend:
            object.__setattr__(self, "backend", "cuda" if self.gpus else "cpu")
        _check_name("a CI runner's backend", self.backend)
        if self.gpus < 0:
            raise ConfigError(
                f"CI runner {self.name!r}: gpus is {self.gpus}",
                hint="give the number of GPUs that a stage on it may use, 0 for none",
            )


@dataclass(frozen=True, kw_only=True)
class CiStage:
    """One stage of CI on one kind of runner.

    `runner` names a `CiRunner`, `engine` an engine or `None`. `command` is a shell command line, run
    from the root of the repository, in which `{tests}` stands for the test files that are registered
    for the stage; it runs pytest when the stage is to be sharded. `env` is added to its environment
    variables. `environment` names the hatch environment that it runs in; without one, `packages`
    (pip requirements) are installed. `setup` are shell command lines that come first, in the same
    environment, each time: they are quick when there is nothing to do.

    A stage is split into as many shards as bring each below `shard_target_s`, or into `shards`. A
    `nightly` stage is left out by day. A stage may stand on several runners: it is identified by its
    `suite`.
    """

    name: str
    runner: str
    summary: str
    command: str
    engine: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    est_time_s: float | None = None
    nightly: bool = False
    distribution: str | None = None
    environment: str | None = None
    setup: tuple[str, ...] = ()
    shards: int | None = None
    shard_target_s: float = 600.0

    def __post_init__(self) -> None:
        _check_name("a CI stage", self.name)
        _check_name("a CI runner", self.runner)
        if self.environment is not None:
            _check_name("the environment of a CI stage", self.environment)
        several: dict[str, object] = {"packages": self.packages, "setup": self.setup}
        for field_name, value in several.items():
            if isinstance(value, str):
                raise ConfigError(
                    f"CI stage {self.name!r}: {field_name} is {value!r}",
                    hint=f"give a tuple of strings: {field_name}=({value!r},)",
                )
        if self.shards is not None and self.shards < 1:
            raise ConfigError(
                f"CI stage {self.name!r}: shards is {self.shards}",
                hint="give a number of at least 1, or leave it out",
            )
        if not self.shard_target_s > 0:
            raise ConfigError(
                f"CI stage {self.name!r}: shard_target_s is {self.shard_target_s}",
                hint="give a positive number of seconds",
            )
        object.__setattr__(self, "env", MappingProxyType(dict(self.env)))

    @property
    def takes_tests(self) -> bool:
        """Whether the command runs registered tests; without `{tests}` it is a job of its own."""
        return "{tests}" in self.command

    @property
    def suite(self) -> str:
        """The name of the suite of tests that run in this stage on this runner."""
        return suite_name(stage=self.name, runner_config=self.runner)


def suite_name(*, stage: str, runner_config: str) -> str:
    """Return the name of the suite of a stage on a runner: `{stage}-test-{runner_config}`."""
    return f"{stage}-test-{runner_config}"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A broken invariant, found after scheduler iteration `step`.

    A plugin leaves `step` alone: it is filled in when the violation is collected. `subject` is the
    slot, page, node or request it is about, `owners` who claims it, `last_operations` the
    operations that led there, oldest first.
    """

    code: str
    message: str
    subject: str
    step: int = 0
    owners: tuple[str, ...] = ()
    last_operations: tuple[str, ...] = ()

"""The plugin manager: the one place through which everything installed is found.

Built-ins, installed distributions and modules named by hand all go through the same checks and the
same hooks. Every complaint names the distribution that it is about.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pluggy

from scripted_registry import _collect, _discovery, builtin, hookspecs
from scripted_registry._ask import Asker, PluginInfo, Registered
from scripted_registry._collect import Kind
from scripted_registry._contract import check_contract, describe
from scripted_registry._settings import PluginSettings
from scripted_registry._version import __version__
from scripted_registry.errors import PluginConflict, PluginContractError
from scripted_registry.specs import (
    CiRunner,
    CiStage,
    EngineConfig,
    EngineSpec,
    ExhausterSpec,
    KitSpec,
    ReporterSpec,
    Violation,
)
from scripted_registry.types import AuditLike, ScriptRun

S = TypeVar("S", EngineSpec, ExhausterSpec, KitSpec, ReporterSpec, CiRunner, CiStage)

OWN_DISTRIBUTION = "scripted-registry"


class PluginManager:
    """Finds, checks and registers plugins, and answers what they registered.

    A new manager has only the built-ins; `load_entry_points` adds what is installed. `environ` is
    where the `SCRIPTED_*PLUGINS` variables are read from, `os.environ` by default.
    """

    def __init__(self, *, environ: Mapping[str, str] | None = None) -> None:
        self._settings = PluginSettings.from_environ(os.environ if environ is None else environ)
        self._pluggy = pluggy.PluginManager(hookspecs.PROJECT_NAME)
        self._pluggy.add_hookspecs(hookspecs)
        self._specs = {
            name: vars(hookspecs)[name]
            for name in vars(self._pluggy.hook)
            if name in vars(hookspecs)
        }
        # by id: a plugin object need not be hashable, and it is kept alive here
        self._registered: dict[int, Registered] = {}
        self._asker = Asker(
            pluggy_manager=self._pluggy, specs=self._specs, registered=self._registered
        )
        self._left_out: set[str] = set()
        self._collected: dict[str, Mapping[str, Any]] = {}
        self._entry_points_loaded = False
        if self._settings.trace:
            self._pluggy.trace.root.setwriter(_trace_writer)
            self._pluggy.enable_tracing()
        self.register(builtin, name="builtin", distribution=OWN_DISTRIBUTION, version=__version__)

    # Registering

    def load_entry_points(
        self, *, instead_of_installed: Mapping[str, Iterable[_discovery.Candidate]] | None = None
    ) -> None:
        """Register every installed plugin that is not disabled, then those of `SCRIPTED_PLUGINS`.

        `instead_of_installed` are the plugins of some distributions, whatever is installed of
        these. A second call does nothing. Raises `PluginImportError`, `PluginContractError` or
        `PluginConflict` for the first plugin that cannot be used, and `PluginNotFound` when
        `SCRIPTED_DISABLE_PLUGINS` names something that is not installed.
        """
        if self._entry_points_loaded:
            return
        settings = self._settings
        installed = _discovery.with_replaced(
            _discovery.installed_candidates(), instead_of_installed or {}
        )
        _discovery.check_disabled_names(settings.disabled, installed=installed)
        for candidate in installed:
            if _discovery.is_disabled(candidate, settings.disabled):
                self._left_out.add(candidate.name)
                self._trace(f"skipped {candidate.source}: disabled")
            else:
                self._load(candidate)
        for candidate in _discovery.extra_candidates(settings.extra, installed=installed):
            self._load(candidate)
        self._entry_points_loaded = True

    def _load(self, candidate: _discovery.Candidate) -> None:
        self._trace(f"discovered {candidate.source}")
        plugin = candidate.load()
        name = f"{candidate.distribution}:{candidate.name}"
        known = self._registered.get(id(plugin))
        if known is not None and (candidate.by_hand or known.info.name == name):
            self._trace(f"skipped {candidate.source}: registered before")
            return
        self.register(
            plugin, name=name, distribution=candidate.distribution, version=candidate.version
        )

    def register(
        self,
        plugin: object,
        *,
        name: str | None = None,
        distribution: str | None = None,
        version: str | None = None,
    ) -> None:
        """Register a module or object that holds hook implementations.

        `name` is the module's or class's by default, `distribution` the name. Raises
        `PluginContractError` when the plugin breaks the contract and `PluginConflict` when it, or
        another of the same name, is registered already. After an error it is not registered.
        """
        name = name or _default_name(plugin)
        distribution = distribution or name
        others = [
            entry.info
            for key, entry in self._registered.items()
            if key == id(plugin) or entry.info.name == name
        ]
        if others:
            other = others[0]
            raise PluginConflict(
                f"plugin {name!r} of {distribution} is registered already, as {other.name!r} of "
                f"{other.distribution}",
                hint="register a plugin once, and give each a name of its own",
            )
        check_contract(
            plugin,
            distribution=distribution,
            specs=self._specs,
            options_of=self._pluggy.parse_hookimpl_opts,
        )
        try:
            self._pluggy.register(plugin, name)
        except pluggy.PluginValidationError as error:
            if self._pluggy.has_plugin(name):  # older releases of pluggy register half of it
                self._pluggy.unregister(plugin)
            raise PluginContractError(
                f"{distribution}: {error}",
                hint="see the hook's documentation in scripted_registry.hookspecs",
            ) from error
        info = PluginInfo(name=name, distribution=distribution, version=version)
        self._registered[id(plugin)] = Registered(plugin=plugin, info=info)
        self._forget()
        self._trace(f"loaded {name} of {distribution} {version or ''}".rstrip())

    def unregister(self, plugin: object) -> None:
        """Take a registered plugin out again; `PluginContractError` when it is not registered."""
        if self._registered.pop(id(plugin), None) is None:
            raise PluginContractError(
                f"{_default_name(plugin)} is not registered",
                hint="unregister what was registered, the same object",
            )
        self._pluggy.unregister(plugin)
        self._forget()

    def _forget(self) -> None:
        self._collected.clear()
        self._asker.forget()

    # What was registered

    def engines(self) -> Mapping[str, EngineSpec]:
        """Return the engines by name."""
        return self._of(_collect.ENGINES)

    def engine(self, name: str) -> EngineSpec:
        """Return the engine called `name`; `PluginNotFound` otherwise."""
        return self._one(_collect.ENGINES, name)

    def exhausters(self) -> Mapping[str, ExhausterSpec]:
        """Return the exhausters by name."""
        return self._of(_collect.EXHAUSTERS)

    def exhauster(self, name: str) -> ExhausterSpec:
        """Return the exhauster called `name`; `PluginNotFound` otherwise."""
        return self._one(_collect.EXHAUSTERS, name)

    def kits(self) -> Mapping[str, KitSpec]:
        """Return the kits by name."""
        return self._of(_collect.KITS)

    def reporters(self) -> Mapping[str, ReporterSpec]:
        """Return the reporters by name."""
        return self._of(_collect.REPORTERS)

    def ci_runners(self) -> Mapping[str, CiRunner]:
        """Return the kinds of CI runners by name."""
        return self._of(_collect.CI_RUNNERS)

    def ci_stages(self) -> Mapping[str, CiStage]:
        """Return the CI stages by suite name, `{stage}-test-{runner}`.

        Raises `PluginContractError` for a stage on a kind of runner that nobody registers.
        """
        stages = self._of(_collect.CI_STAGES)
        _collect.check_stage_runners(stages, self.ci_runners())
        return stages

    def plugins(self) -> tuple[PluginInfo, ...]:
        """Return the registered plugins, in the order of their registration."""
        return tuple(entry.info for entry in self._registered.values())

    def distributions(self) -> dict[str, str | None]:
        """Return the version of each distribution that a plugin came with, `None` if unknown."""
        return {info.distribution: info.version for info in self.plugins()}

    def _of(self, kind: Kind[S]) -> Mapping[str, S]:
        if kind.hook not in self._collected:
            self._collected[kind.hook] = _collect.collect(kind, self._asker.answers(kind.hook))
        return dict(self._collected[kind.hook])

    def _one(self, kind: Kind[S], name: str) -> S:
        return _collect.look_up(kind, name, self._of(kind), disabled=self._left_out)

    # Calling hooks

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks, to be called with keyword arguments: `manager.hook.scripted_on_step(step=1)`.

        Answers that have to be checked have a method of their own here.
        """
        return self._pluggy.hook

    def has_impls(self, hook: str) -> bool:
        """Whether any plugin implements `hook`; ask once, not at every step.

        Raises `PluginContractError` when there is no such hook.
        """
        return bool(self._asker.caller(hook).get_hookimpls())

    def make_engine(self, config: EngineConfig) -> object:
        """Build the engine of `config`.

        Raises `PluginNotFound` when no such engine is registered and `PluginContractError` when it
        is, and no plugin builds it.
        """
        spec = self.engine(config.engine)
        engine: object | None = self.hook.scripted_make_engine(config=config)
        if engine is None:
            raise PluginContractError(
                f"{spec.distribution} registers engine {spec.name!r}, and no plugin builds it in "
                f"mode {config.mode.value!r}",
                hint="scripted_make_engine of that distribution must return an engine for it",
            )
        return engine

    def check_invariants(self, audit: AuditLike, *, step: int) -> list[Violation]:
        """Return the violations that plugins find after scheduler iteration `step`.

        Raises `PluginContractError` for an answer that is no list of violations.
        """
        hook = "scripted_check_invariants"
        return [
            replace(violation, step=step)
            for distribution, caller in self._asker.each(hook)
            for answer in caller(audit=audit)
            for violation in _collect.checked_list(distribution, hook, answer, Violation)
        ]

    def report_sections(self, run: ScriptRun) -> list[tuple[str, str]]:
        """Return the report sections of plugins; `PluginContractError` for other answers."""
        hook = "scripted_report_sections"
        sections: list[tuple[str, str]] = []
        for distribution, answer in self._asker.answers(hook, run=run):
            for section in _collect.checked_list(distribution, hook, answer, tuple):
                if len(section) != 2 or not all(isinstance(part, str) for part in section):
                    raise PluginContractError(
                        f"{distribution}: {hook} returned a list with {describe(section)}",
                        hint="return a list of (heading, text)",
                    )
                sections.append(section)
        return sections

    def _trace(self, line: str) -> None:
        if self._settings.trace:
            _trace_writer(f"{line}\n")


def _default_name(plugin: object) -> str:
    name = getattr(plugin, "__name__", None)
    return name if isinstance(name, str) else type(plugin).__qualname__


def _trace_writer(text: str) -> None:
    for line in text.splitlines():
        print(f"scripted plugins: {line}", file=sys.stderr)


_lock = threading.Lock()
_process_manager: PluginManager | None = None


def get_plugin_manager() -> PluginManager:
    """Return this process's manager, with the entry points loaded on the first call.

    Raises what `PluginManager.load_entry_points` raises, at every call until it succeeds.
    """
    global _process_manager
    with _lock:
        if _process_manager is None:
            manager = PluginManager()
            manager.load_entry_points()
            _process_manager = manager
        return _process_manager


def reset_plugin_manager() -> None:
    """Forget this process's manager, so that the next call discovers anew. For tests."""
    global _process_manager
    with _lock:
        _process_manager = None

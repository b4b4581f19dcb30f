"""Runs scripted items; registered as a plugin of its own when the first one is collected."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from scripted_registry import EngineConfig, EngineMode, get_plugin_manager

from scripted_core.capabilities import Capability
from scripted_core.errors import CapabilityMissing, ConfigError, ScriptedError
from scripted_core.pytest_plugin import _options
from scripted_core.pytest_plugin._engines import EnginePool, group_name
from scripted_core.pytest_plugin._known_defects import expect_known_defects
from scripted_core.pytest_plugin._reports import mark_as_error
from scripted_core.sessions.base import Session, make_config
from scripted_core.sessions.fit import misfit
from scripted_core.sessions.lifecycle import script_run
from scripted_core.sessions.outcome import skipped
from scripted_core.unittest_case import ScriptedTestCase, lend_sessions

_OPTION_NAMES = ("check_invariants", "timeout_s", "stall_timeout_s")
_MAX_FILE_NAME_BYTES = 200
_session_key: pytest.StashKey[Session] = pytest.StashKey()


class ContextPlaceholder:
    """What a fixture sees as ``t``: the real one exists in the engine, while the script runs."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"t.{name}: t exists only inside a script: a test without a yield is none, and a "
            "fixture can use scripted_session instead"
        )


class ScriptedRuntime:
    """Fixtures, parametrization over engines, execution, and the engines of the run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        try:
            self._installed = ", ".join(sorted(get_plugin_manager().engines())) or "none"
        except ScriptedError as error:  # a broken plugin is the user's to mend, no crash of ours
            raise pytest.Collector.CollectError(str(error)) from None
        self._engines = EnginePool(config)
        self._end_lending = lend_sessions(lambda config: self._engines.get(config).session)
        self._backends = _options.backends(config)
        self._engine_args = _options.engine_args(config)
        self._attach_to = _options.attach_to(config)
        self._seed = _options.seed(config)
        self._timeout_s = _options.timeout_s(config)
        self._trace_dir = _options.trace_folder(config)

    # -- fixtures ------------------------------------------------------------------------------

    @pytest.fixture
    def scripted_backend(self, request: pytest.FixtureRequest) -> str | None:
        """Name of the engine that this test runs on; ``None`` for the default."""
        backend: str | None = getattr(request, "param", None)
        if backend is None and self._backends:
            backend = self._backends[0]
        return backend

    @pytest.fixture
    def scripted_session(
        self, request: pytest.FixtureRequest, scripted_backend: str | None
    ) -> Session:
        """The running engine of this test."""
        item = request.node
        if self.is_scripted(item):
            _check_signature(item)
        required = _required(item)
        stall_timeout_s = self._script_options(item).get("stall_timeout_s")
        session: Session
        reason: str | None = None
        if self._attach_to is not None:
            session = attached = self._engines.attached(
                self._attach_to, stall_timeout_s=stall_timeout_s, seed=self._seed
            )
            reason = misfit(self._engine_kwargs(item), attached.arguments)
        else:
            config = self._engine_config(item, scripted_backend)
            _skip_without(required, without=self._lacking(config), engine=config.engine)
            try:
                engine = self._engines.get(config, stall_timeout_s=stall_timeout_s, item=item)
            except CapabilityMissing as error:  # known before a start: this release cannot be it
                raise skipped(str(error)) from None
            session = engine.session
            item.user_properties.append(("scripted_engine_group", group_name(config)))
            if engine.start_s is not None:
                item.user_properties.append(("scripted_engine_start_s", f"{engine.start_s:.3f}"))
        item.stash[_session_key] = session
        has = session.capabilities
        missing = [one for one in required if one not in has]
        if reason is None:
            _skip_without(required, without=missing, engine=session.config.engine)
            reason = item.ihook.pytest_scripted_skip_reason(item=item, capabilities=has)
        if reason is not None:
            raise skipped(reason)
        ready = session.ready
        if ready is not None:
            expect_known_defects(item, engine=ready.engine, version=ready.engine_version)
        return session

    @pytest.fixture
    def t(self, scripted_session: Session) -> ContextPlaceholder:
        """The script's context: control of, and a look into, the engine."""
        return ContextPlaceholder()

    # -- collection ----------------------------------------------------------------------------

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Every scripted test on each of several engines, unless it names its own."""
        if len(self._backends) < 2 or "scripted_backend" not in metafunc.fixturenames:
            return
        marks = metafunc.definition.iter_markers("parametrize")
        if not any("scripted_backend" in str(mark.args[:1]) for mark in marks):
            metafunc.parametrize("scripted_backend", self._backends, indirect=True)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Bring tests of the same server together, where its first is: a start costs many seconds.

        All others stay where they are among each other.
        """
        first_at: dict[tuple[EngineConfig, object], int] = {}
        places: list[int] = []
        for place, item in enumerate(items):
            server = self._server_of(item)
            places.append(place if server is None else first_at.setdefault(server, place))
        ordered = sorted(zip(places, items, strict=True), key=lambda pair: pair[0])
        items[:] = [item for _, item in ordered]

    def pytest_scripted_engine_group(self, item: pytest.Item) -> str | None:
        """Which tests share one start of an engine with ``item``."""
        engine = self._engine_of(item)
        return None if engine is None else group_name(engine[0])

    def _server_of(self, item: pytest.Item) -> tuple[EngineConfig, object] | None:
        engine = self._engine_of(item)
        return engine if engine is not None and engine[0].mode is EngineMode.SERVER else None

    def _engine_of(self, item: pytest.Item) -> tuple[EngineConfig, object] | None:
        case = getattr(item, "cls", None)
        if isinstance(case, type) and issubclass(case, ScriptedTestCase):
            return self._engine_of_class(case)
        if "scripted_session" not in getattr(item, "fixturenames", ()) or self._attach_to:
            return None
        callspec = getattr(item, "callspec", None)
        backend = callspec.params.get("scripted_backend") if callspec is not None else None
        if backend is None and self._backends:
            backend = self._backends[0]
        try:
            config = self._engine_config(item, backend)
            stall_timeout_s = self._script_options(item).get("stall_timeout_s")
        except ScriptedError:
            return None  # the test itself will say so
        return config, stall_timeout_s

    def _engine_of_class(self, case: type[ScriptedTestCase]) -> tuple[EngineConfig, object] | None:
        try:
            backend = case.BACKEND or (self._backends[0] if self._backends else None)
            config = make_config(backend, case.ENGINE_KWARGS)
        except ScriptedError:
            return None  # the class itself will say so
        return config, None

    # -- configuration -------------------------------------------------------------------------

    def _engine_config(self, item: pytest.Item, backend: str | None) -> EngineConfig:
        kwargs = {**self._engine_kwargs(item), **self._engine_args}
        return make_config(backend, kwargs, seed=self._seed)

    @staticmethod
    def _engine_kwargs(item: pytest.Item) -> dict[str, Any]:
        kwargs: dict[str, Any] = {}
        for mark in reversed(list(item.iter_markers("scripted"))):
            if mark.args:
                raise ConfigError(
                    f"@pytest.mark.scripted{mark.args!r} has positional arguments",
                    hint="engine arguments go by name: @pytest.mark.scripted(page_size=16)",
                )
            kwargs.update(mark.kwargs)
        return kwargs

    def _script_options(self, item: pytest.Item) -> dict[str, Any]:
        chosen: dict[str, Any] = {}
        for mark in reversed(list(item.iter_markers("scripted_options"))):
            unknown = [name for name in mark.kwargs if name not in _OPTION_NAMES]
            if unknown or mark.args:
                raise ConfigError(
                    "@pytest.mark.scripted_options does not take "
                    + ", ".join(unknown or map(repr, mark.args)),
                    hint=f"it takes {', '.join(_OPTION_NAMES)}",
                )
            chosen.update(mark.kwargs)
        for name in ("timeout_s", "stall_timeout_s"):
            value = chosen.get(name)
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise ConfigError(
                    f"@pytest.mark.scripted_options({name}={value!r}) is no length of time",
                    hint="give a positive number of seconds, or None for the default",
                )
        return chosen

    def _lacking(self, config: EngineConfig) -> Collection[str]:
        """What the engine says it cannot have with these arguments, before it is started."""
        lacks = get_plugin_manager().engine(config.engine).lacks
        return () if lacks is None else lacks(config)

    # -- execution -----------------------------------------------------------------------------

    def run(self, item: pytest.Function) -> None:
        """Execute the item's script in the engine that its fixtures brought."""
        session = cast("Session", item.funcargs["scripted_session"])
        function = item.obj
        names = [name for name in inspect.signature(function).parameters if name != "t"]
        kwargs = {name: item.funcargs[name] for name in names if name in item.funcargs}
        options = self._script_options(item)
        self._add_properties(item, session)
        try:
            session.execute_script(
                function,
                kwargs=kwargs,
                timeout_s=options.get("timeout_s", self._timeout_s),
                check_invariants=options.get("check_invariants", True),
                want_trace=self._trace_dir is not None,
            )
        finally:
            if self._trace_dir is not None:
                self._write_trace(item, session, self._trace_dir)

    def _add_properties(self, item: pytest.Function, session: Session) -> None:
        item.user_properties.append(("scripted_backend", session.config.engine))
        item.user_properties.append(("scripted_mode", session.config.mode.value))
        item.user_properties.append(("scripted_seed", str(self._seed)))

    def _write_trace(self, item: pytest.Item, session: Session, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        lines = (msgspec.json.encode(step) + b"\n" for step in session.last_trace)
        (folder / _trace_name(item)).write_bytes(b"".join(lines))

    def add_sections(self, item: pytest.Function, report: pytest.TestReport) -> None:
        """Where the trace of a failed test is, and what plugins have to say about it.

        A plugin that fails at it makes the test an error, and not the whole run.
        """
        session = item.stash.get(_session_key, None)
        if session is None:
            return
        if report.failed and self._trace_dir is not None:
            path = self._trace_dir / _trace_name(item)
            report.sections.append(("scripted trace", f"written to {path}"))
        run = script_run(item.obj, session_id=item.nodeid, config=session.config)
        try:
            report.sections.extend(get_plugin_manager().report_sections(run))
        except Exception as error:
            text = f"scripted_report_sections failed: {type(error).__name__}: {error}"
            if report.passed:
                report.outcome, report.longrepr = "failed", text
                mark_as_error(report)
            else:
                report.sections.append(("scripted plugins", text))

    def is_scripted(self, item: pytest.Item) -> bool:
        """Whether ``item`` is a script of ours, and not a generator that another plugin runs."""
        return "scripted_session" in getattr(
            item, "fixturenames", ()
        ) and inspect.isgeneratorfunction(getattr(item, "obj", None))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Stop every engine, also after Ctrl-C; pytest has ended the fixtures before."""
        self._end_lending()
        self._engines.close()

    def pytest_report_collectionfinish(self) -> str:
        """Which engines are installed."""
        return f"scripted: engines installed: {self._installed}"


def _required(item: pytest.Item) -> list[Capability]:
    """What the marks of an item ask of the engine."""
    found = []
    for mark in item.iter_markers("scripted_requires"):
        if mark.kwargs:
            raise ConfigError(
                f"@pytest.mark.scripted_requires does not take {', '.join(mark.kwargs)}",
                hint='capabilities go by position: @pytest.mark.scripted_requires("retract")',
            )
        for name in mark.args:
            try:
                found.append(Capability(name))
            except ValueError:
                raise ConfigError(
                    f"@pytest.mark.scripted_requires({name!r}): no such capability",
                    hint=f"one of {', '.join(capability.value for capability in Capability)}",
                ) from None
    return found


def _skip_without(required: Sequence[Capability], *, without: Collection[str], engine: str) -> None:
    for capability in required:
        if capability in without:
            raise skipped(f"engine {engine!r} has no capability {capability.value!r}")


def _check_signature(item: pytest.Function) -> None:
    names = list(inspect.signature(item.obj).parameters)
    if names[:1] != ["t"]:
        raise ConfigError(
            f"the script {item.name} takes ({', '.join(names)}): its first parameter has to be t",
            hint=f"def {item.originalname}({', '.join(['t', *(n for n in names if n != 't')])})",
        )


def _trace_name(item: pytest.Item) -> str:
    """The node id as a file name; one that is too long for that ends in a hash of it."""
    name = re.sub(r"[^\w.\-\[\]]+", "_", item.nodeid)
    encoded = name.encode()
    if len(encoded) > _MAX_FILE_NAME_BYTES:
        digest = hashlib.blake2b(item.nodeid.encode(), digest_size=8).hexdigest()
        name = f"{encoded[:_MAX_FILE_NAME_BYTES].decode(errors='ignore')}-{digest}"
    return f"{name}.jsonl"

"""Every hook of the pluggy project "scripted": when it is called, with what, what it returns.

A plugin implements a hook by defining a function of the same name, marked with `hookimpl`, that
takes all or some of the arguments *by the names given here*. "Test side" is the pytest process,
"engine side" the process in which the engine's scheduler runs (the same one for an in-process
session), "command line" the `scripted` and `python -m scripted_registry` programs.

A plugin module is imported on every side, so it imports nothing heavy at its top level.
"""

# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pluggy import HookimplMarker, HookspecMarker

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
from scripted_registry.types import (
    AuditLike,
    BatchRecordLike,
    CommandApp,
    ContextLike,
    ReadyLike,
    ScriptRun,
)

PROJECT_NAME = "scripted"
HOOKSPEC_API_VERSION = 1

hookspec = HookspecMarker(PROJECT_NAME)
hookimpl = HookimplMarker(PROJECT_NAME)


# Register: what a plugin brings. Called once, when the first of the kind is looked up, on the side
# that looks it up. `None` or an empty list means "nothing here".


@hookspec
def scripted_register_engines() -> list[EngineSpec]:
    """Return the engines that sessions can be started on.

    Called on the test side and by the command line. Their names must be unique over all plugins.
    """


@hookspec
def scripted_register_exhausters() -> list[ExhausterSpec]:
    """Return the exhausters that scripts can reach through their context.

    Called on the engine side, where their factories are given the scheduler, and by the command
    line. Their names must be unique over all plugins.
    """


@hookspec
def scripted_register_kits() -> list[KitSpec]:
    """Return the kits that can be run against a server.

    Called on the test side and by the command line. Their names must be unique over all plugins.
    """


@hookspec
def scripted_register_reporters() -> list[ReporterSpec]:
    """Return the reporters that can be chosen for a run.

    Called on the test side and by the command line. Their names must be unique over all plugins.
    """


@hookspec
def scripted_register_ci_stages() -> list[CiStage]:
    """Return the CI stages that a distribution's tests run in.

    Called by the command line. The pair of stage and runner must be unique over all plugins, and
    the runner one that some plugin registers.
    """


@hookspec
def scripted_register_ci_runners() -> list[CiRunner]:
    """Return the kinds of machines that CI stages can ask for.

    Called by the command line. Their names must be unique over all plugins.
    """


@hookspec
def scripted_register_commands(app: CommandApp) -> None:
    """Add commands to `app`, the typer application of the `scripted` program.

    Called by the command line, once, before the arguments are parsed. A command group is added with
    `app.add_typer(group, name="mine")`. Returns nothing.
    """


# Build: the first plugin that does not return `None` decides.


@hookspec(firstresult=True)
def scripted_make_engine(config: EngineConfig) -> object | None:
    """Build the engine of `config`, or return `None` when `config.engine` is another plugin's.

    Called on the test side when a session starts, once for each engine that is started. What is
    returned is what the session package asks for in `config.mode`: the engine itself for
    `EngineMode.IN_PROCESS`, how to launch and reach it for `EngineMode.SERVER`.
    """


@hookspec(firstresult=True)
def scripted_make_transport(config: EngineConfig) -> object | None:
    """Return what makes the test side's end of the wire, or `None` for the usual one.

    It is a callable that takes the session's address and returns a channel, as the session package
    defines them.
    Called on the test side when a session in server mode starts, before the engine is launched.
    """


# Lifecycle of an engine and of a script. All of these observe: they return nothing, and an
# exception in one ends the session or the script that it was told about.


@hookspec
def scripted_engine_before_start(config: EngineConfig) -> None:
    """Called on the test side before an engine is started with `config`."""


@hookspec
def scripted_engine_started(config: EngineConfig, ready: ReadyLike) -> None:
    """Called on the test side after the handshake; `ready` is what the engine reported."""


@hookspec
def scripted_engine_died(config: EngineConfig, error: Exception) -> None:
    """Called on the test side when an engine process ended on its own.

    `error` is the error that the test gets, with the tail of the engine's log.
    """


@hookspec
def scripted_engine_stopped(config: EngineConfig) -> None:
    """Called on the test side after every process and socket of an engine is gone.

    Also called after a death, and after a start that failed once `scripted_engine_before_start`
    had been called: each call of the one is followed by one call of the other.
    """


@hookspec
def scripted_script_before_run(run: ScriptRun) -> None:
    """Called on the test side before a script is handed to the engine."""


@hookspec
def scripted_script_after_run(run: ScriptRun) -> None:
    """Called on the test side after a script ended, however it ended."""


@hookspec
def scripted_script_on_error(run: ScriptRun, error: BaseException) -> None:
    """Called on the test side when a script did not succeed, before `scripted_script_after_run`.

    `error` is what the test gets: a failed assertion of the script, a stall, a dead engine.
    """


# In the engine. These are called between scheduler iterations: one that blocks stops the engine.
# Without an implementation they cost nothing.


@hookspec
def scripted_engine_built(port: object) -> None:
    """Called on the engine side when an engine is built, before its first iteration.

    In each process that has a scheduler, also when no script will ever run there. `port` is what
    the engine offers beside its adapter protocol, such as `scripted_core.kv_watch.KvWatchPort`: ask with
    `isinstance`. An engine that does not call this hook is told of at the first `scripted_on_reset`.
    """


@hookspec(firstresult=True)
def scripted_context_tool(name: str, context: ContextLike) -> object | None:
    """Return what `t.<name>` is to a script, for one of the names that packages bring.

    Called on the engine side when a script asks for it. The names are `"canary"` and `"perturb"`.
    """


@hookspec
def scripted_on_step(step: int) -> None:
    """Called on the engine side after scheduler iteration `step` of the script, counted from 1."""


@hookspec
def scripted_on_batch(record: BatchRecordLike) -> None:
    """Called on the engine side when the engine runs a batch, after it is in the batch log."""


@hookspec
def scripted_on_reset(context: ContextLike) -> None:
    """Called on the engine side before each script, once the engine has been reset and is idle.

    A plugin that holds resources of the engine lets go of them here.
    """


@hookspec
def scripted_check_invariants(audit: AuditLike) -> list[Violation]:
    """Return the invariants that are broken at this iteration boundary, an empty list for none.

    Called on the engine side after every iteration of a script, unless invariants are switched off.
    The script fails with all violations of the step, those of the built-in invariants first.
    `Violation.step` is filled in afterwards.
    """


# Report.


@hookspec
def scripted_trace_events(run: ScriptRun) -> Iterable[Mapping[str, object]]:
    """Return events to add to the trace of `run`, in order.

    Called on the test side after the script ended, when a trace is written. Each event is a mapping
    of plain data with at least "step" (int) and "name" (str).
    """


@hookspec
def scripted_report_sections(run: ScriptRun) -> list[tuple[str, str]]:
    """Return (heading, text) sections to add to the test report of `run`.

    Called on the test side after the script ended, before pytest makes the report.
    """

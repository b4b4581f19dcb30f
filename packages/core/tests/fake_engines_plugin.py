"""Two engines for the tests of the pytest plugin; loaded by a pytest below the test's as ``-p``.

``local`` runs scripts in the process and is a scheduler without requests; ``other`` is the same
under another name. ``fake`` is a server: ``fake_engine_program.py``, to which the name of a script
says how it ends. What happens to engines is written to ``events.txt`` in the current folder.
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import scripted_registry.manager
from scripted_core.free_ports import free_port
from scripted_core.ports import JobOutcome
from scripted_core.sessions.launch import ServerLaunch
from scripted_core.trace import StepTrace
from scripted_registry import EngineMode, EngineSpec, PluginManager, hookimpl

SCRIPTED_API = 1
EVENTS = Path("events.txt").absolute()
PROGRAM = os.environ.get("FAKE_ENGINE_PROGRAM", "")
CAPABILITIES = frozenset({"retract", "chunked_prefill"})


def note(text):
    with EVENTS.open("a") as file:
        file.write(f"{text}\n")


class Context:
    """``t``: it knows its engine's configuration and makes rids."""

    def __init__(self, config, seed):
        self.config = config
        self.rids = [f"r{n}-{seed:x}" for n in range(3)]


class Hook:
    def __init__(self, config):
        self.config = config
        self.engine = SimpleNamespace(
            name=config.engine, version="1", capabilities=CAPABILITIES, kwargs=config.kwargs
        )
        self.outcome = None
        self.progress = 0
        self.step_index = 0
        self._script = None

    def start_job(
        self, *, name, function, args, kwargs, check_invariants, seed, want_trace, on_step=None
    ):
        self.outcome = None
        self.step_index = 0
        self._on_step = on_step
        self._want_trace, self._trace = want_trace, []
        self._steps = itertools.count()
        self.check_invariants = check_invariants
        self._begin = lambda: function(Context(self.config, seed), *args, **(kwargs or {}))
        note(f"script {name} check_invariants={check_invariants}")

    def step(self):
        self.progress += 1
        try:
            if self._script is None:
                self._script = self._begin()
            next(self._script)
        except StopIteration:
            self._end(None)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            self._end(error)
        else:
            trace = StepTrace(next(self._steps), "idle", {}, 1, 1)
            self._trace.append(trace)
            self.step_index += 1
            if self._on_step is not None:
                self._on_step(trace)

    def _end(self, error):
        self._script = None
        trace = tuple(self._trace) if self._want_trace else ()
        self.outcome = JobOutcome(
            error=error, last_state="nothing runs", trace=trace, steps=self.step_index
        )

    def abandon(self):
        self._script = None

    def describe_state(self):
        return "nothing runs"

    def event_digest(self):
        return "digest"


class Engine:
    def __init__(self, config):
        self.hook = Hook(config)

    def iterate(self):
        self.hook.step()

    def close(self):
        if self.hook.config.kwargs.get("stuck"):
            raise OSError("it does not stop")


def lacks(config):
    return [] if config.kwargs.get("dp_size") else ["dp"]


class Engines:
    @hookimpl
    def scripted_register_engines(self):
        in_process = (EngineMode.IN_PROCESS,)
        return [
            EngineSpec(name="local", summary="in-process", modes=in_process),
            EngineSpec(name="other", summary="in-process too", modes=in_process, lacks=lacks),
            EngineSpec(name="fake", summary="a server", modes=(EngineMode.SERVER,)),
        ]

    @hookimpl
    def scripted_make_engine(self, config):
        if config.mode is EngineMode.IN_PROCESS:
            return Engine(config)
        port = free_port()
        return ServerLaunch(
            argv=(sys.executable, PROGRAM, "good", str(port)),
            host="127.0.0.1",
            port=port,
            start_timeout_s=20.0,
            stop_grace_s=1.0,
        )

    @hookimpl
    def scripted_engine_before_start(self, config):
        note(f"start {config.engine} {dict(sorted(config.kwargs.items()))}")

    @hookimpl
    def scripted_engine_stopped(self, config):
        note(f"stop {config.engine} {dict(sorted(config.kwargs.items()))}")


plugins = PluginManager(environ={})
plugins.register(Engines(), name="fake-engines")
scripted_registry.manager._process_manager = plugins
os.environ.setdefault("SCRIPTED_BACKEND", "local")

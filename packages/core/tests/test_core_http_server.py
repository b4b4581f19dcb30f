from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

import pytest
from scripted_core.errors import (
    EngineDied,
    EngineDirty,
    EngineStartError,
    HandshakeError,
    PluginContractError,
    ProtocolMismatch,
    ReplyTimeout,
    ScriptFailed,
    ScriptNotImportable,
    ScriptStalled,
)
from scripted_core.free_ports import free_port
from scripted_core.logs import capture_logs
from scripted_core.sessions import ScriptedHttpServer, ServerLaunch
from scripted_core.sessions.launch import SESSION_FOLDER
from scripted_core.sessions.startup import SilenceWatch
from scripted_registry import EngineConfig, EngineMode, EngineSpec, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=20, stage="unit", runner_config="cpu")

SCRIPTED_API = 1

PROGRAM = Path(__file__).with_name("fake_engine_program.py")
SOON_S = 5.0


# Scripts by name: the program decides by it what to answer.
def succeeds(t):
    yield


def echoes(t, *args, **kwargs):
    yield


def echoes_environment(t):
    yield


def fails(t):
    yield


def skips(t):
    yield


def streams(t):
    yield


def after_stale_replies(t):
    yield


def never_answers(t):
    yield


def never_ends(t):
    yield


def exits(t):
    yield


def lets_go_of_the_wire(t):
    yield


def loses_a_worker(t):
    yield


def reports(t):
    yield


def speaks_out_of_turn(t):
    yield


class ServerPlugin:
    """Starts the program; ``events`` are the lifecycle hooks that were called."""

    def __init__(self):
        self.events = []
        self.directories = []
        self.how = "good"
        self.launch = {}

    @hookimpl
    def scripted_register_engines(self):
        return [EngineSpec(name="fake", summary="a fake", modes=(EngineMode.SERVER,))]

    @hookimpl
    def scripted_make_engine(self, config):
        settings = {
            "argv": (sys.executable, str(PROGRAM), self.how, "{port}"),
            "host": "127.0.0.1",
            "port": free_port(),
            "start_timeout_s": 20.0,
            "stop_grace_s": 1.0,
            "prepare": self.directories.append,
            **self.launch,
        }
        argv = tuple(arg.replace("{port}", str(settings["port"])) for arg in settings.pop("argv"))
        return ServerLaunch(argv=argv, **settings)

    @hookimpl
    def scripted_engine_before_start(self, config):
        self.events.append("before_start")

    @hookimpl
    def scripted_engine_started(self, config, ready):
        self.events.append("started")

    @hookimpl
    def scripted_engine_died(self, config, error):
        self.events.append("died")

    @hookimpl
    def scripted_engine_stopped(self, config):
        self.events.append("stopped")


def is_alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def processes_of(directory):
    """Every process that was started for the session, whoever its parent is by now."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if str(directory).encode() in environ.read_bytes():
                found.append((environ.parent / "cmdline").read_bytes())
    return found


def assert_nothing_is_left(plugin):
    for directory in plugin.directories:
        assert not directory.exists()
        assert processes_of(directory) == []


@pytest.fixture
def plugin(plugins):
    one = ServerPlugin()
    plugins.register(one, name="server-plugin")
    return one


@pytest.fixture
def start(plugin):
    servers: list[ScriptedHttpServer] = []

    def start(how="good", *, stall_timeout_s=20.0, **launch):
        plugin.how, plugin.launch = how, launch
        config = EngineConfig(engine="fake", kwargs={}, mode=EngineMode.SERVER, seed=11)
        server = ScriptedHttpServer.from_config(config, stall_timeout_s=stall_timeout_s)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
    assert_nothing_is_left(plugin)


@contextlib.contextmanager
def within(limit_s):
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < limit_s


# -- scripts -------------------------------------------------------------------------------------


def test_scripts_one_after_the_other_and_a_failure_leaves_the_server_usable(start, plugin):
    server = start()
    assert server.capabilities == {"chunked_prefill"}
    assert server.ready.engine_version == "1"
    assert set(server.pids.values()) >= {"scheduler", "worker"}
    server.execute_script(succeeds)
    assert server.event_digest() == "digest-1"
    with pytest.raises(ScriptFailed, match="ValueError: a bad value") as caught:
        server.execute_script(fails)
    assert "Tb: in script" in str(caught.value)
    assert "step 2" in str(caught.value)
    assert caught.value.remote_traceback == "Tb: in script"
    assert server.dirty is None
    with pytest.raises(pytest.skip.Exception, match="not today"):
        server.execute_script(skips)
    server.execute_script(succeeds)
    assert server.event_digest() == "digest-4"
    assert plugin.events == ["before_start", "started"]


def test_arguments_seed_and_switches_travel(start):
    server = start()
    with pytest.raises(ScriptFailed, match="Echo") as caught:
        server.execute_script(echoes, args=[1, "two"], kwargs={"k": None}, check_invariants=False)
    assert "([1, 'two'], {'k': None}, 11, False)" in str(caught.value)


def test_what_cannot_travel_is_refused_and_the_server_stays_usable(start):
    server = start()
    with pytest.raises(ScriptNotImportable, match="argument 1"):
        server.execute_script(echoes, args=[1, object()])
    with pytest.raises(ScriptNotImportable, match="argument or fixture 'engine'"):
        server.execute_script(echoes, kwargs={"engine": server})
    with pytest.raises(ScriptNotImportable, match="lambda"):
        server.execute_script(lambda t: None)
    assert server.dirty is None
    server.execute_script(succeeds)


def test_a_string_that_is_no_utf_8_is_refused_and_the_server_stays_usable(start):
    server = start()
    with pytest.raises(ScriptNotImportable, match="argument 0"):
        server.execute_script(echoes, args=["\udcff"])
    assert server.dirty is None


def test_stale_replies_are_passed_over(start, capsys):
    server = start()
    server.execute_script(succeeds)
    with capture_logs() as logs:
        server.execute_script(after_stale_replies)
    assert server.event_digest() == "fresh"
    assert [entry["event"] for entry in logs] == ["stale reply passed over"] * 2


def test_a_listener_is_told_of_this_scripts_iterations(start):
    server = start()
    seen = []
    server.execute_script(streams, on_step=seen.append)
    assert [step.step for step in seen] == [1, 2, 4]
    assert tuple(seen) == server.last_trace
    assert server.last_checks.invariants == ("pages",)
    server.execute_script(succeeds)
    assert server.last_checks.iterations == 0


def test_other_messages_do_not_end_a_wait(start):
    server = start()
    server.execute_script(speaks_out_of_turn)


def test_a_timeout_names_the_step_and_leaves_the_server_dirty(start):
    server = start()
    with (
        within(SOON_S),
        pytest.raises(ReplyTimeout, match=r"0\.3 s\s+it was at step \d+") as caught,
    ):
        server.execute_script(never_ends, timeout_s=0.3)
    assert "in run" in str(caught.value)
    assert server.last_steps is not None
    assert server.last_steps > 0
    with pytest.raises(EngineDirty, match="ReplyTimeout"):
        server.execute_script(succeeds)


def test_a_script_that_never_got_to_an_iteration_is_not_counted(start):
    server = start()
    with pytest.raises(EngineDied):
        server.execute_script(exits)
    assert server.last_steps is None


def test_a_stall_shows_state_and_stacks(start):
    server = start(stall_timeout_s=0.3)
    with within(SOON_S), pytest.raises(ScriptStalled) as caught:
        server.execute_script(never_answers)
    text = str(caught.value)
    assert "deaf_to_the_wire" in text
    assert f"process {server.ready.pids['scheduler']}: S" in text
    assert "fake engine: good" in text
    assert server.dirty


def test_progress_is_no_stall(start):
    server = start(stall_timeout_s=0.3)
    with pytest.raises(ReplyTimeout):
        server.execute_script(never_ends, timeout_s=0.9)


def test_an_exit_is_seen_at_once_with_code_and_log(start, plugin):
    server = start()
    with within(SOON_S), pytest.raises(EngineDied) as caught:
        server.execute_script(exits)
    assert "exited with code 3" in str(caught.value)
    assert "about to exit" in str(caught.value)
    assert plugin.events[-1] == "died"
    with pytest.raises(EngineDirty, match="exited with code 3"):
        server.execute_script(succeeds)
    server.shutdown()
    assert plugin.events[-1] == "stopped"


def test_an_engine_that_lets_go_of_the_wire_before_it_ends_has_died(start):
    server = start()
    server.execute_script(lets_go_of_the_wire)
    with within(SOON_S):
        while "has let go" not in server.log_text():
            time.sleep(0.01)
        with pytest.raises(EngineDied, match="exited with code 3"):
            server.execute_script(succeeds)


def test_the_death_of_a_worker_is_seen_although_its_parent_lives_on(start):
    server = start()
    with within(SOON_S), pytest.raises(EngineDied, match=r"worker \(pid \d+\)"):
        server.execute_script(loses_a_worker)
    assert is_alive(server.ready.pids["scheduler"])


def test_a_kill_from_outside_is_seen_in_the_middle_of_a_script(start):
    server = start()
    pid = server.ready.pids["scheduler"]
    timer = threading.Timer(0.2, os.kill, [pid, 9])
    timer.start()
    with within(SOON_S), pytest.raises(EngineDied, match="SIGKILL"):
        server.execute_script(never_answers)
    timer.join()


def test_a_death_between_two_scripts_is_seen_at_the_next(start):
    server = start()
    os.kill(server.ready.pids["worker"], 9)
    assert server.dirty is None
    with within(SOON_S), pytest.raises(EngineDied, match="worker"):
        server.execute_script(never_answers)


def test_a_report_out_of_band_names_rank_and_cause(start):
    server = start()
    with within(SOON_S), pytest.raises(EngineDied) as caught:
        server.execute_script(reports)
    assert "rank 1" in str(caught.value)
    assert "OSError: no memory" in str(caught.value)
    assert "Tb: rank 1" in str(caught.value)


def test_ctrl_c_during_a_wait_leaves_the_server_dirty(start):
    server = start()
    timer = threading.Timer(0.2, os.kill, [os.getpid(), 2])
    timer.start()
    with within(SOON_S), pytest.raises(KeyboardInterrupt):
        server.execute_script(never_answers)
    timer.join()
    with pytest.raises(EngineDirty, match="KeyboardInterrupt"):
        server.execute_script(succeeds)


# -- the end -------------------------------------------------------------------------------------


def test_shutdown_is_idempotent_and_leaves_nothing(start, plugin):
    server = start()
    pids = list(server.pids)
    assert len(pids) >= 2
    with within(SOON_S):
        server.shutdown()
        server.shutdown()
    assert not [pid for pid in pids if is_alive(pid)]
    assert not plugin.directories[0].exists()
    assert plugin.events == ["before_start", "started", "stopped"]
    with pytest.raises(EngineDirty, match="shut down"):
        server.execute_script(succeeds)


def test_a_with_block_ends_the_engine(start, plugin):
    with start() as server:
        server.execute_script(succeeds)
    assert plugin.events[-1] == "stopped"


def test_an_engine_that_is_deaf_to_sigterm_ends_all_the_same(start):
    server = start(stop_grace_s=0.2)
    os.kill(server.ready.pids["scheduler"], 19)
    with within(SOON_S):
        server.shutdown()


def test_what_killed_processes_leave_behind_is_deleted_after_them(start, tmp_path):
    left, other = tmp_path / "left", tmp_path / "other"
    asked = []

    def leftovers(pids):
        asked.append(set(pids))
        return [left, tmp_path / "never-there"]

    server = start(leftovers=leftovers)
    assert asked == [set(server.pids)]
    left.touch()
    other.touch()
    server.shutdown()
    assert not left.exists()
    assert other.exists()


def test_semaphores_of_a_killed_engine_are_cleaned_up(start):
    server = start("has_semaphores", stop_grace_s=0.0)
    (name,) = re.findall(r"semaphore /(\S+)", server.log_text())
    file = Path(f"/dev/shm/sem.{name}")
    assert file.exists()
    with within(SOON_S):
        server.shutdown()
    assert not file.exists()


# -- the start -----------------------------------------------------------------------------------


def test_an_engine_that_refuses_its_arguments_is_quoted(start, plugin):
    with within(SOON_S), pytest.raises(EngineStartError) as caught:
        start("refuses")
    assert "exited with code 2" in str(caught.value)
    assert "unrecognized argument --colour" in str(caught.value)
    assert_nothing_is_left(plugin)


def test_an_adapter_may_explain_the_log(start):
    with pytest.raises(EngineStartError, match="there is no colour"):
        start("refuses", explain=lambda log: "there is no colour" if "--colour" in log else None)


def test_an_engine_that_ends_behind_its_greeting_and_before_it_serves_has_not_started(
    start, plugin
):
    with within(SOON_S), pytest.raises(EngineStartError, match="there is no front") as caught:
        start(
            "loses_its_front", explain=lambda log: "there is no front" if "front" in log else None
        )
    assert "its front could not listen" in str(caught.value)
    assert plugin.events == ["before_start", "died", "stopped"]
    assert_nothing_is_left(plugin)


def test_a_command_that_does_not_exist_is_named(start, plugin):
    with within(SOON_S), pytest.raises(EngineStartError, match="no-such-program-anywhere"):
        start(argv=("no-such-program-anywhere",))
    assert_nothing_is_left(plugin)


@pytest.mark.parametrize(
    ("how", "error", "match"),
    [
        ("old", ProtocolMismatch, "wire protocol 0"),
        ("other", HandshakeError, "'other' answered"),
        ("unhooked", HandshakeError, "none of the hooks"),
        ("stranger", HandshakeError, "token"),
        ("breaks", EngineStartError, "OSError: no memory"),
    ],
)
def test_a_handshake_that_goes_wrong(start, plugin, how, error, match):
    with within(SOON_S), pytest.raises(error, match=match) as caught:
        start(how)
    assert type(caught.value) is error
    assert caught.value.hint or error is EngineStartError
    assert_nothing_is_left(plugin)


def test_a_helper_that_ends_during_the_start_is_no_death(start):
    start("has_helpers").execute_script(succeeds)


def test_a_rank_that_ends_during_the_start_is_seen_although_its_parent_lives_on(start, plugin):
    with within(SOON_S), pytest.raises(EngineStartError, match=r"rank 1 \(pid \d+\) ended"):
        start("loses_a_rank")
    assert_nothing_is_left(plugin)


def test_an_engine_that_never_answers_is_given_up(start, plugin):
    with (
        within(SOON_S),
        pytest.raises(EngineStartError, match=r"not ready within 0\.4 s") as caught,
    ):
        start("silent", start_timeout_s=0.4)
    assert "log tail" in str(caught.value)
    assert_nothing_is_left(plugin)


def test_an_engine_that_answers_http_without_our_hooks_is_seen(start, plugin, monkeypatch):
    quick = functools.partial(SilenceWatch, silence_s=0.3)
    monkeypatch.setattr("scripted_core.sessions.launched.SilenceWatch", quick)
    with within(SOON_S), pytest.raises(HandshakeError, match="plugin was swallowed") as caught:
        start("swallowed")
    assert "Skipping plugin scripted (not wanted)" in str(caught.value)
    assert caught.value.hint
    assert_nothing_is_left(plugin)


def test_the_session_folder_is_filled_in_in_arguments_and_environment(start, plugin):
    server = start(env={"FAKE_FOLDER": SESSION_FOLDER + "/x"})
    with pytest.raises(ScriptFailed) as caught:
        server.execute_script(echoes_environment)
    assert f"Echo: {plugin.directories[0]}/x" in str(caught.value)


def test_an_engine_that_is_never_healthy_is_given_up(start, plugin):
    with within(2 * SOON_S), pytest.raises(EngineStartError, match="status 503"):
        start("never_healthy", start_timeout_s=1.5)
    assert_nothing_is_left(plugin)


def test_a_failed_start_is_followed_by_a_stop(start, plugin):
    with pytest.raises(EngineStartError):
        start("refuses")
    assert plugin.events == ["before_start", "died", "stopped"]


def test_a_port_that_is_taken_is_the_engines_own_message(start, plugin):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with within(SOON_S), pytest.raises(EngineStartError, match="Address already in use"):
            start(port=taken.getsockname()[1])
    assert_nothing_is_left(plugin)


def test_a_plugin_that_makes_something_else_is_named(plugins):
    class Odd:
        @hookimpl
        def scripted_register_engines(self):
            return [EngineSpec(name="odd", summary="odd", modes=(EngineMode.SERVER,))]

        @hookimpl
        def scripted_make_engine(self, config):
            return object()

    plugins.register(Odd(), name="odd")
    with pytest.raises(PluginContractError, match="'odd'"):
        ScriptedHttpServer.start(backend="odd")

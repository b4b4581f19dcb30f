"""From a configuration to a command, without starting anything."""

from __future__ import annotations

import mmap
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import structlog
from scripted_core.errors import EngineStartError
from scripted_core.sessions.launch import SESSION_FOLDER, ServerLaunch
from scripted_registry import EngineConfig, EngineMode
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch, probes, server
from scripted_sglang.environment import ENV_BASE_URL
from scripted_sglang.plugin import scripted_make_engine, scripted_register_engines

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")


@pytest.fixture(autouse=True)
def argv(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command line is made of, in place of an SGLang that writes it."""
    seen: dict[str, Any] = {}

    def write(kwargs: dict[str, Any], *, host: str, port: int) -> list[str]:
        seen.update(kwargs)
        return ["sglang"]

    monkeypatch.setattr(server, "server_argv", write)
    monkeypatch.setattr(server, "installed_version", lambda: probes.TESTED_VERSIONS[-1])
    return seen


def _launch(**kwargs: Any) -> ServerLaunch:
    return server.server_launch(
        EngineConfig(engine="sglang", kwargs=kwargs, mode=EngineMode.SERVER)
    )


def test_the_small_model_is_written_into_the_session(argv: dict[str, Any], tmp_path: Path) -> None:
    made = _launch(context_length=96)
    assert argv["model_path"] == f"{SESSION_FOLDER}/tiny-model"
    assert "context_length" not in argv
    assert made.prepare is not None
    made.prepare(tmp_path)
    assert '"max_position_embeddings": 96' in (tmp_path / "tiny-model/config.json").read_text()


def test_a_model_of_ones_own_is_left_to_sglang(argv: dict[str, Any]) -> None:
    made = _launch(model_path="/some/model", context_length=96)
    assert (argv["model_path"], argv["context_length"]) == ("/some/model", 96)
    assert made.prepare is None


def test_the_environment_belongs_to_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    made = _launch(device="cpu")
    assert made.env["TMPDIR"] == SESSION_FOLDER
    assert made.env[ENV_BASE_URL] == made.base_url
    assert made.ready_path == "/model_info"
    assert "TORCHINDUCTOR_CACHE_DIR" not in made.env
    on_gpu = _launch(device="cuda")
    assert on_gpu.env["TMPDIR"] == SESSION_FOLDER
    assert SESSION_FOLDER not in on_gpu.env["TORCHINDUCTOR_CACHE_DIR"]


def test_a_free_port_is_taken_and_a_taken_one_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert _launch().port != port
        with pytest.raises(EngineStartError, match=f"port {port} on 127.0.0.1 is taken") as caught:
            _launch(port=port)
    assert caught.value.hint
    assert _launch(port=port).port == port


def _installed(monkeypatch: pytest.MonkeyPatch, *found: probes.Probe) -> None:
    monkeypatch.setattr(server, "installed_version", lambda: "0.5.99")
    installation = probes.Installation("0.5.99", False, found)
    monkeypatch.setattr(server, "describe_installation", lambda: installation)


def _probe(name: str, *, found: str | None, required: bool) -> probes.Probe:
    return probes.Probe(name, "a purpose", found, is_hook=True, required=required, loses="a call")


def test_a_port_leaves_room_for_the_one_that_sglang_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "free_port", lambda host, *, highest: highest)
    assert _launch().port == 55_535


def test_a_release_that_was_not_tested_is_recorded_with_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = _probe("Scheduler.run_batch", found="sglang.run_batch", required=True)
    _installed(monkeypatch, there, _probe("Stats.held", found=None, required=False))
    with structlog.testing.capture_logs() as logs:
        _launch()
    assert logs == [
        {
            "event": "SGLang release not tested",
            "log_level": "warning",
            "installed": "0.5.99",
            "tested": "0.5.23, 0.5.20, 0.5.15",
            "probes": "1 of 2 hook targets and 0 of 0 attributes found; "
            "without Stats.held a script loses a call",
        }
    ]


def test_a_release_without_a_place_for_a_hook_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = _probe("Scheduler.run_batch", found=None, required=True)
    _installed(monkeypatch, gone, _probe("Stats.held", found=None, required=False))
    with pytest.raises(EngineStartError, match=r"0\.5\.99 has no Scheduler\.run_batch,") as caught:
        _launch()
    assert caught.value.hint == "use a tested release: 0.5.23, 0.5.20, 0.5.15"


def test_a_tested_release_is_neither_probed_nor_remarked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probed() -> None:
        raise AssertionError("a start would take longer")

    monkeypatch.setattr(server, "describe_installation", probed)
    with structlog.testing.capture_logs() as logs:
        _launch()
    assert logs == []


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", None),
        ("INFO all is well\n", None),
        (
            "usage: launch_server\nlaunch_server.py: error: argument --dtype: invalid choice: 'x'",
            "SGLang says: launch_server.py: error: argument --dtype: invalid choice: 'x'",
        ),
        (
            "ValueError: first\n[2026] Scheduler hit an exception: Traceback\n"
            "huggingface_hub.errors.HFValidationError: Repo id must be a name\nbye\n",
            "SGLang says: huggingface_hub.errors.HFValidationError: Repo id must be a name",
        ),
        ("SomeWarning: not an error\n", None),
        ("requests.exceptions.ConnectionError: Max retries exceeded with url: /freeze_gc", None),
        (
            "ERROR:    [Errno 98] error while attempting to bind on address ('::1', 4638): "
            "address already in use\nINFO:     Waiting for application shutdown.\n"
            "requests.exceptions.ReadTimeout: HTTPConnectionPool(port=4638): Read timed out.",
            "SGLang says: [Errno 98] error while attempting to bind on address ('::1', 4638); "
            "another program took the port while SGLang started: try again",
        ),
    ],
)
def test_the_last_error_of_a_log_is_the_explanation(log: str, said: str | None) -> None:
    assert server.explain(log) == said


def test_only_load_files_that_our_processes_map_are_left_over() -> None:
    ours = Path(f"/dev/shm/sglang_loads_{os.getpid()}_test.shm")
    other = Path(f"/dev/shm/sglang_loads_{os.getpid()}_other.shm")
    try:
        other.write_bytes(b"\0" * 4096)
        ours.write_bytes(b"\0" * 4096)
        with open(ours, "r+b") as file, mmap.mmap(file.fileno(), 4096):
            assert server.load_files([os.getpid(), 2**22 + 1]) == {ours}
        assert server.load_files([os.getpid()]) == set()
    finally:
        ours.unlink(missing_ok=True)
        other.unlink(missing_ok=True)


def test_the_plugin_makes_only_its_own_engine() -> None:
    (spec,) = scripted_register_engines()
    assert (spec.name, spec.modes) == ("sglang", (EngineMode.SERVER,))
    assert spec.check is not None
    assert spec.check() == launch.check_usable()
    foreign = EngineConfig(engine="reference", kwargs={}, mode=EngineMode.SERVER)
    assert scripted_make_engine(foreign) is None
    own = EngineConfig(engine="sglang", kwargs={}, mode=EngineMode.SERVER)
    assert isinstance(scripted_make_engine(own), ServerLaunch)

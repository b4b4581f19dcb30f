"""`scripted kit`, `popen_launch_server`, and the fixtures: mistakes are messages, not tracebacks."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from scripted_core.cli import main
from scripted_core.errors import ConfigError, EngineStartError
from scripted_kit_client.launching import engine_arguments, popen_launch_server
from scripted_kit_client.unittest_case import CustomTestCase
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=10, stage="unit", runner_config="cpu")

pytest_plugins = ["pytester"]


@pytest.fixture
def scripted(capsys):
    """The program `scripted kit`: its exit status, what it said, and what it complained of."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["kit", *arguments])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def test_installed_kits_are_listed_with_their_options(scripted, monkeypatch):
    listed = json.loads(scripted("list", "--json")[1])
    kits = {kit["name"]: kit for kit in listed}
    assert {"occupancy", "hellaswag", "sanity"} <= kits.keys()
    options = {one["name"]: one for one in kits["occupancy"]["options"]}
    assert options["threshold"]["default"] == "95.0"
    assert all(one["help"] for kit in listed for one in kit["options"])
    monkeypatch.setenv("COLUMNS", "200")
    assert "median has to be above" in " ".join(scripted("list")[1].split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ocupancy", "--url", "http://127.0.0.1:9"), "no kit is called 'ocupancy'"),
        (("occupancy", "--url", "nowhere"), "is no URL"),
        (("occupancy", "--url", "http://127.0.0.1:9"), "nothing answers"),
        (
            ("occupancy", "--url", "http://127.0.0.1:9", "-o", "treshold=3"),
            "did you mean 'threshold'",
        ),
        (("occupancy", "--url", "http://127.0.0.1:9", "-o", "threshold"), "NAME=VALUE"),
        (("occupancy", "--url", "http://127.0.0.1:9", "--timeout", "0"), "timeout of 0"),
        (("all", "--url", "http://127.0.0.1:9", "-o", "threshold=3"), "KIT.threshold"),
    ],
)
def test_a_mistake_is_a_message_and_status_2(scripted, arguments, said):
    status, _, complaint = scripted("run", *arguments)
    assert status == 2
    assert said in complaint


def test_a_server_that_is_not_there_is_in_the_json_too(scripted):
    status, said, _ = scripted("run", "sanity", "--url", "http://127.0.0.1:9", "--json")
    assert status == 2
    (kit,) = json.loads(said)["kits"]
    assert (kit["outcome"], kit["error"]["code"]) == ("broken", "server-unreachable")


def test_what_cannot_be_written_is_said_before_anything_is_measured(
    scripted, monkeypatch, tmp_path
):
    server = ("--url", "http://127.0.0.1:9")  # which would be the error if it were asked
    for file, why in (
        (tmp_path, "it is a folder"),
        (tmp_path / "no" / "a.svg", "there is no folder"),
    ):
        status, _, complaint = scripted("run", "occupancy", *server, "--plot", str(file))
        assert (status, why in complaint) == (2, True), complaint
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path))
    status, _, complaint = scripted("run", "occupancy", *server)
    assert (status, "$GITHUB_STEP_SUMMARY cannot be written" in complaint) == (2, True), complaint


def test_flags_of_sglang_become_engine_arguments():
    flags = ["--enable-metrics", "--page-size", 16, "--dtype=float16", "--cuda-graph-bs", 1, 2]
    assert engine_arguments(flags) == {
        "enable_metrics": "true",
        "page_size": "16",
        "dtype": "float16",
        "cuda_graph_bs": '["1", "2"]',
    }
    with pytest.raises(ConfigError, match="behind no flag"):
        engine_arguments(["16"])


def test_a_server_that_does_not_start_says_why_and_leaves_nothing():
    with pytest.raises(EngineStartError, match="page_sise"):
        popen_launch_server(
            "hash", "http://127.0.0.1:21977", backend="reference", other_args=["--page-sise", "3"]
        )
    with pytest.raises(ConfigError, match="no port"):
        popen_launch_server("hash", "http://127.0.0.1")


def test_a_class_whose_set_up_fails_is_torn_down():
    torn: list[str] = []

    class Case(CustomTestCase):
        @classmethod
        def setUpClass(cls):
            raise RuntimeError("no GPU")

        @classmethod
        def tearDownClass(cls):
            torn.append("down")

    with pytest.raises(RuntimeError, match="no GPU"):
        Case.setUpClass()
    assert torn == ["down"]


def test_the_fixture_skips_without_a_url_and_errs_without_a_server(pytester):
    pytester.makepyfile("def test_a(run_kit): run_kit('sanity')")
    pytester.runpytest_inprocess("-p", "no:xdist").assert_outcomes(skipped=1)
    found = pytester.runpytest_inprocess("-p", "no:xdist", "--kit-url", "http://127.0.0.1:9")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*nothing answers at http://127.0.0.1:9*"])


def test_the_pytest_plugin_is_light():
    code = (
        "import sys, pytest\nbefore = set(sys.modules)\nimport scripted_kit_client.pytest_plugin\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert not {"aiohttp", "rich", "typer", "asyncio"} & set(done.stdout.split())

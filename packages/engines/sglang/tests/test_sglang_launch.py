from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_registry.errors import ConfigError
from scripted_sglang import arguments, launch

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")

_NEW_FIELDS = """
class Serving:
    model_path: A[str, Arg(help="x", aliases=["--model"])]
    dtype: A[str, "help"] = "auto"
    random_seed: A[Optional[int], "help"] = None
    enable_metrics: A[bool, "help"] = False
    always_on: A[bool, "help"] = True
    fuse: A[bool, Arg(action=argparse.BooleanOptionalAction)] = True
    cuda_graph_bs: A[Optional[List[int]], Arg(help="x")] = None
    lora_paths: A[Optional[Union[dict[str, str], List[str]]], Arg(action=LoRAPathAction)] = None
    mm_config: A[Optional[Dict[str, Any]], Arg(type_parser=json.loads)] = None
    join_mode: A[Optional[str], Arg(cli_name="--elastic-join-mode")] = None
    sampling_backend: A[Optional[str], Arg(no_cli=True)] = None
    hidden: A[Optional[str], Arg(no_cli=True)] = None
    stat_loggers: Optional[Dict[str, type]] = None
    backend: A[Literal["null", "verifier", "drafter"], "help"] = "null"
    fraction: A[float | None, "help"] = None
    parsed: A[Optional[int], Arg(type_parser=size_of)] = None
    _internal: A[bool, Arg(no_cli=True)] = False
    derived = Derived(doc="x")
"""
_NEW_SERVER_ARGS = """
class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--sampling-backend", type=str)
"""
_OLD_SERVER_ARGS = """
@dataclasses.dataclass
class ServerArgs:
    model_path: str
    enable_metrics: bool = False
    cuda_graph_bs: Optional[List[int]] = None

class PortArgs:
    nccl_port: int
"""


def _package(folder: Path, server_args: str, fields: str | None = None) -> Path:
    srt = folder / "sglang" / "srt"
    (srt / "arg_groups" / "fields").mkdir(parents=True)
    (folder / "sglang" / "__init__.py").write_text("raise RuntimeError('imported')")
    (srt / "server_args.py").write_text(server_args)
    if fields is not None:
        (srt / "arg_groups" / "fields" / "serving.py").write_text(fields)
    return folder / "sglang"


@pytest.fixture
def sglang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed SGLang that fails when it is imported."""
    package = _package(tmp_path, _NEW_SERVER_ARGS, _NEW_FIELDS)
    monkeypatch.setattr(launch, "source_folder", lambda: package)
    return package


def _argv(**kwargs: object) -> list[str]:
    return launch.server_argv(kwargs, host="127.0.0.1", port=7)[7:]


@pytest.mark.usefixtures("sglang")
class TestServerArgv:
    def test_the_command_names_host_and_port(self) -> None:
        assert launch.server_argv({}, host="::1", port=30000) == [
            sys.executable,
            "-m",
            "sglang.launch_server",
            "--host",
            "::1",
            "--port",
            "30000",
        ]

    @pytest.mark.parametrize(
        ("kwargs", "written"),
        [
            ({"model_path": Path("/m")}, ["--model-path=/m"]),
            ({"random_seed": -3}, ["--random-seed=-3"]),
            ({"dtype": None}, []),
            ({"enable_metrics": True}, ["--enable-metrics"]),
            ({"enable_metrics": False}, []),
            ({"fuse": True}, ["--fuse"]),
            ({"fuse": False}, ["--no-fuse"]),
            ({"cuda_graph_bs": [1, 2]}, ["--cuda-graph-bs", "1", "2"]),
            ({"cuda_graph_bs": ()}, []),
            ({"lora_paths": {"a": "/a"}}, ["--lora-paths", "a=/a"]),
            ({"mm_config": {"a": 1}}, ["--mm-config", '{"a": 1}']),
            ({"join_mode": "scale"}, ["--elastic-join-mode=scale"]),
            ({"sampling_backend": "pytorch"}, ["--sampling-backend=pytorch"]),
            ({"random_seed": "7"}, ["--random-seed=7"]),
            ({"fraction": 1}, ["--fraction=1"]),
            ({"backend": "drafter"}, ["--backend=drafter"]),
            ({"parsed": "4k"}, ["--parsed=4k"]),
        ],
    )
    def test_a_value_is_written_as_its_flag_takes_it(
        self, kwargs: dict[str, Any], written: list[str]
    ) -> None:
        assert _argv(**kwargs) == written

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"hidden": "x"}, "no command-line flag for 'hidden'"),
            ({"stat_loggers": {"x": "y"}}, "no command-line flag for 'stat_loggers'"),
            ({"_internal": True}, "no argument '_internal'"),
            ({"derived": 1}, "no argument 'derived'"),
            ({"always_on": False}, "no flag to switch it off"),
            ({"enable_metrics": 1}, "on or off, not 1"),
            ({"dtype": object()}, "cannot be written"),
            ({"dtype": True}, "cannot be written"),
            ({"port": 1}, "chosen by the session"),
            ({"random_seed": 1.5}, r"random_seed='1\.5' is not a whole number"),
            ({"random_seed": "many"}, "random_seed='many' is not a whole number"),
            ({"fraction": "half"}, "fraction='half' is not a number"),
            ({"backend": "verifer"}, "backend='verifer' is not one of its values"),
        ],
    )
    def test_what_cannot_be_written_is_refused(self, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            _argv(**kwargs)

    def test_an_unknown_argument_comes_with_the_nearest_name(self) -> None:
        with pytest.raises(ConfigError, match="no argument 'modle_path'") as caught:
            _argv(modle_path="/m")
        assert caught.value.hint == "did you mean 'model_path'?"

    def test_a_word_that_is_none_of_its_values_comes_with_the_nearest(self) -> None:
        with pytest.raises(ConfigError) as caught:
            _argv(backend="verifer")
        assert caught.value.hint == (
            "did you mean 'verifier'? It takes 'null', 'verifier', 'drafter'"
        )

    def test_defaults_that_this_release_does_not_know_are_left_out(self) -> None:
        assert launch.default_kwargs(cpu=True) == {"dtype": "float32", "random_seed": 0}


def test_the_older_form_of_the_arguments_is_read_too(tmp_path: Path) -> None:
    known = arguments.server_arguments(_package(tmp_path, _OLD_SERVER_ARGS))
    assert set(known) == {"model_path", "enable_metrics", "cuda_graph_bs"}
    assert known["enable_metrics"].kind is arguments.ArgumentKind.SWITCH
    assert known["cuda_graph_bs"].kind is arguments.ArgumentKind.VALUES
    assert all(argument.has_flag for argument in known.values())


def test_without_sglang_a_server_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "source_folder", lambda: None)
    with pytest.raises(ConfigError, match="not installed"):
        launch.server_argv({}, host="h", port=1)
    assert launch.default_kwargs(cpu=True)["device"] == "cpu"
    assert "device" not in launch.default_kwargs(cpu=False)


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (None, "SGLang is not installed: pip install sglang=={tested}"),
        (
            "0.5.11",
            "SGLang 0.5.11 is too old, plugins exist since 0.5.12: pip install sglang=={tested}",
        ),
        ("0.5.12.post1", None),
        ("0.5.23", None),
        ("1.0", None),
    ],
)
def test_usable_names_what_is_wrong(
    version: str | None, reason: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def installed(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", installed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(launch, "source_folder", lambda: tmp_path)
    said = launch.check_usable()
    if reason is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(reason.format(tested="0.5.23"))
        assert "README" in said


def test_an_installation_without_torch_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.5.23")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert launch.check_usable() == "SGLang 0.5.23 is installed without torch"


def test_the_environment_puts_standins_before_what_is_inherited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "standin_pythonpath", lambda: (Path("/a"), Path("/b")))
    monkeypatch.setenv("PYTHONPATH", "/mine")
    assert launch.server_env(cpu=True)["PYTHONPATH"] == os.pathsep.join(["/a", "/b", "/mine"])
    monkeypatch.delenv("PYTHONPATH")
    assert launch.server_env(cpu=True)["PYTHONPATH"] == os.pathsep.join(["/a", "/b"])
    monkeypatch.setattr(launch, "standin_pythonpath", tuple)
    assert "PYTHONPATH" not in launch.server_env(cpu=True)


def test_standins_and_the_cpu_engine_are_for_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGLANG_PLUGINS", raising=False)
    assert launch.server_env(cpu=False) == {
        "SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python",
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
    }


@pytest.mark.parametrize(
    ("inherited", "set_to"),
    [
        ("", None),
        (" , ", None),
        ("theirs", "theirs,scripted"),
        ("theirs, more", "theirs,more,scripted"),
        ("theirs, scripted", None),
    ],
)
def test_our_plugin_joins_those_that_the_user_allows(
    inherited: str, set_to: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_PLUGINS", inherited)
    assert launch.server_env(cpu=True).get("SGLANG_PLUGINS") == set_to


def test_our_plugin_has_the_name_that_is_allowed() -> None:
    (found,) = importlib.metadata.entry_points(group="sglang.srt.plugins", name=launch.PLUGIN_NAME)
    assert found.value == "scripted_sglang.entry:attach"


@pytest.mark.parametrize(
    ("source", "ranks", "tp_size", "cores"),
    [
        ("def init_threads_binding(): ...", 1, 1, None),
        ("def init_threads_binding(): ...", 3, 1, "0|1|0"),
        ("def init_threads_binding(): ...", 4, 2, "0|1|0|1"),
        # An older release wants as many as a tensor parallel group has ranks, whatever else there is.
        ("", 3, 1, None),
        ("", 4, 2, "0|1"),
    ],
)
def test_each_rank_is_bound_to_a_core_where_that_can_be_said(
    source: str,
    ranks: int,
    tp_size: int,
    cores: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "srt" / "utils").mkdir(parents=True)
    (tmp_path / "srt" / "utils" / "numa_utils.py").write_text(source)
    monkeypatch.setattr(launch, "source_folder", lambda: tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    env = launch.server_env(cpu=True, ranks=ranks, tp_size=tp_size)
    assert env.get("SGLANG_CPU_OMP_THREADS_BIND") == cores


@pytest.mark.skipif(
    launch.check_usable() is not None, reason=f"needs SGLang: {launch.check_usable()}"
)
class TestInstalledSglang:
    def test_every_default_is_an_argument_that_can_be_written(self) -> None:
        for cpu in (True, False):
            kwargs = launch.default_kwargs(cpu=cpu)
            assert {"watchdog_timeout", "kv_canary"} <= set(kwargs)
            assert len(launch.server_argv(kwargs, host="h", port=1)) > len(kwargs)

    def test_names_of_the_field_are_known(self) -> None:
        package = arguments.source_folder()
        assert package is not None
        known = arguments.server_arguments(package)
        names = {"model_path", "chunked_prefill_size", "page_size", "tp_size", "pp_size"}
        assert names <= set(known)
        assert all(known[name].has_flag for name in names)


def test_what_a_server_cannot_have_shows_in_its_arguments() -> None:
    plain = launch.lacking({})
    assert {"closed_form_output", "dp", "pp", "priority"} <= plain
    assert "prefix_cache" not in plain
    assert "dp" not in launch.lacking({"dp_size": 2})
    assert "pp" not in launch.lacking({"pp_size": 2, "dp_size": 1})
    assert "priority" not in launch.lacking({"enable_priority_scheduling": True})
    assert "lock_refs" in launch.lacking({"disable_radix_cache": True})

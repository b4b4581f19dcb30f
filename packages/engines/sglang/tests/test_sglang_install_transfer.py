"""The tool that installs what carries KV, with stand-ins for the package managers."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")


@pytest.fixture
def tool(monkeypatch):
    """The module of the tool."""
    file = Path(__file__).parents[1] / "tools" / "install_transfer.py"
    spec = importlib.util.spec_from_file_location("install_transfer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "install", lambda pins: 0)
    monkeypatch.setattr(sys, "argv", ["install_transfer"])
    return module


def _missing(tool, monkeypatch, *names):
    rest = [*names, None]
    monkeypatch.setattr(tool, "missing_library", lambda: rest.pop(0))


def test_libraries_are_added_until_it_loads(tool, monkeypatch, tmp_path):
    _missing(tool, monkeypatch, "libibverbs.so.1", "libnl-3.so.200")
    added = []
    monkeypatch.setattr(tool, "library_folder", lambda: tmp_path)
    monkeypatch.setattr(tool, "add_library", lambda name, folder: added.append((name, folder)))
    assert tool.main() == 0
    assert added == [("libibverbs.so.1", tmp_path), ("libnl-3.so.200", tmp_path)]


@pytest.mark.parametrize(("required", "status"), [("", 0), ("1", 1)])
def test_what_cannot_be_had_is_a_failure_where_it_is_required(
    tool, monkeypatch, tmp_path, capsys, required, status
):
    monkeypatch.setenv(tool.ENV_REQUIRED, required)
    _missing(tool, monkeypatch, "libsomething.so.1")
    monkeypatch.setattr(tool, "library_folder", lambda: tmp_path)
    assert tool.main() == status
    assert "libsomething.so.1 is missing, and no Debian package is known" in capsys.readouterr().err


def test_a_library_that_was_added_in_vain_is_not_added_for_ever(
    tool, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(tool, "missing_library", lambda: "libibverbs.so.1")
    monkeypatch.setattr(tool, "library_folder", lambda: tmp_path)
    monkeypatch.setattr(tool, "add_library", lambda name, folder: None)
    monkeypatch.setenv(tool.ENV_REQUIRED, "1")
    assert tool.main() == 1
    assert "was added and is not found" in capsys.readouterr().err


def test_its_own_lists_are_fetched_where_the_systems_do_not_serve(tool, monkeypatch, tmp_path):
    asked = []

    def apt(options, *words, cwd):
        asked.append((bool(options), words[0]))
        if options and words[0] == "download":
            (cwd / "libibverbs1_44_amd64.deb").touch()
        return bool(options)

    monkeypatch.setattr(tool, "_apt", apt)
    monkeypatch.setattr(tool.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert tool.fetch("libibverbs1", into=tmp_path).name == "libibverbs1_44_amd64.deb"
    assert asked == [(False, "download"), (True, "update"), (True, "download")]


def test_a_machine_without_apt_is_told(tool, monkeypatch, tmp_path):
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    with pytest.raises(tool.CannotInstall, match="no apt-get"):
        tool.fetch("libibverbs1", into=tmp_path)

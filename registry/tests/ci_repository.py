"""A small repository with stages of its own, for tests of `scripted ci`; imported by path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

PLUGIN = """
    from scripted_registry import CiRunner, CiStage, hookimpl

    SCRIPTED_API = 1

    @hookimpl
    def scripted_register_ci_runners():
        return [
            CiRunner(name="8-npu", summary="", labels=("self-hosted", "npu"), gpus=8, backend="npu")
        ]

    @hookimpl
    def scripted_register_ci_stages():
        return [
            CiStage(
                name="toy", runner="cpu", summary="toy tests", packages=("acme[toy]",),
                # No plugin but the one that is needed: loading all takes most of a run's time here.
                env={"TOY": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                command="python -m pytest -p no:cacheprovider -p pytest_reportlog.plugin {tests}",
            ),
            CiStage(
                name="deep", runner="8-npu", summary="", environment="npu", shards=3,
                command="python -m pytest {tests}", setup=("true",),
            ),
            CiStage(name="job", runner="cpu", summary="", command="echo ran >> ran.txt"),
        ]
"""
REGISTER = (
    "from scripted_registry.ci import register_cpu_ci\n"
    'register_cpu_ci({est}, stage="toy", runner_config="cpu"{more})\n'
)


class Repository:
    """A folder with a workspace package that registers the stages of `PLUGIN`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write(
            "pyproject.toml",
            """
            [tool.scripted.ci]
            packages = ["packages/*"]
            tests = ["tests"]
            [tool.pytest.ini_options]
            addopts = ["--import-mode=importlib"]
            """,
        )
        self.add_package("acme", PLUGIN)
        (root / "tests").mkdir()

    def write(self, path: str, text: str) -> None:
        """Write one file, without the indentation of the source that it stands in."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(dedent(text))

    def add_package(self, name: str, plugin: str) -> None:
        """Add a package with a plugin, as somebody would who adds one to the repository."""
        module = f"{name}_ci_plugin"
        self.write(
            f"packages/{name}/pyproject.toml",
            f'[project]\nname = "{name}"\nversion = "1"\n'
            f'[project.entry-points.scripted]\n{name} = "{module}"\n',
        )
        self.write(f"packages/{name}/src/{module}.py", plugin)

    def add_tests(self, name: str, text: str, *, est: float = 1, more: str = "") -> None:
        """Add a registered test file."""
        self.write(f"tests/{name}", REGISTER.format(est=est, more=more) + dedent(text))

    def command(self, *arguments: str) -> list[str]:
        """The program."""
        return [sys.executable, "-m", "scripted_registry", *arguments]

    def environ(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Nothing of the run that this test is in, and no plugin that is installed."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SCRIPTED_", "PYTEST_", "GITHUB_"))
            and name not in ("FORCE_COLOR", "COLUMNS")
        }
        # No bytecode: a file that is rewritten within a second would keep its old one.
        return inherited | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(more or {})

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the program to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environ(environ),
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )

    def registered(self) -> None:
        """Write the manifest, which is what runs are made from."""
        done = self.run("register")
        assert done.returncode == 0, done.stdout + done.stderr

    def manifest(self) -> Any:
        """The manifest as plain data."""
        return json.loads((self.root / "ci/manifest.json").read_text())

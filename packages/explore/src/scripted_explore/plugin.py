"""The command of this package, and the CI stages of its tests."""

from __future__ import annotations

from typing import Any

from scripted_registry import CiStage, hookimpl

SCRIPTED_API = 1


@hookimpl
def scripted_register_commands(app: Any) -> None:
    """`scripted explore`."""
    from scripted_explore.cli import explore_command

    app.command("explore")(explore_command)


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """Short explorations of the embedded engine and of SGLang, and the machinery's own tests."""
    return [
        CiStage(
            name="explore",
            runner="cpu",
            summary="short explorations of the reference engine, and what makes them",
            engine="reference",
            packages=("pytest>=9", "hypothesis"),
            command="python -m pytest {tests} --scripted-backend reference",
        ),
        CiStage(
            name="explore-sglang",
            runner="cpu",
            summary="a short exploration of SGLang without a GPU",
            engine="sglang",
            packages=("pytest>=9", "hypothesis"),
            command="python -m pytest {tests} --scripted-backend sglang",
        ),
    ]

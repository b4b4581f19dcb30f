"""The registry's own plugin: the usual kinds of CI runners, and the stage that needs no engine."""

from __future__ import annotations

from scripted_registry.hookspecs import HOOKSPEC_API_VERSION, hookimpl
from scripted_registry.specs import CiRunner, CiStage
from scripted_registry.types import CommandApp

SCRIPTED_API = HOOKSPEC_API_VERSION


@hookimpl
def scripted_register_ci_runners() -> list[CiRunner]:
    """Return the kinds of machines that stages usually ask for."""
    return [
        CiRunner(name="cpu", summary="a hosted machine without a GPU", labels=("ubuntu-latest",)),
        CiRunner(
            name="1-gpu-small",
            summary="one GPU of any kind",
            labels=("self-hosted", "1-gpu-small"),
            gpus=1,
        ),
        CiRunner(
            name="1-gpu-h100",
            summary="one GPU of 80 GB or more",
            labels=("self-hosted", "1-gpu-h100"),
            gpus=1,
        ),
        CiRunner(
            name="4-gpu-h100",
            summary="four GPUs of 80 GB or more in one host",
            labels=("self-hosted", "4-gpu-h100"),
            gpus=4,
        ),
    ]


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """Return the stage of tests that start no engine."""
    return [
        CiStage(
            name="unit",
            runner="cpu",
            summary="tests that start no engine",
            packages=("scripted-registry[ci]", "pytest>=9", "hypothesis"),
            command="python -m pytest {tests}",
        )
    ]


@hookimpl
def scripted_register_commands(app: CommandApp) -> None:
    """Add `scripted ci`."""
    from scripted_registry.ci.cli import ci_group

    app.add_typer(ci_group(), name="ci")

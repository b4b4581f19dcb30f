"""The registration of the reference engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_registry import CiStage, EngineConfig, EngineMode, EngineSpec, hookimpl

if TYPE_CHECKING:
    from scripted_core.sessions.launch import ServerLaunch

    from scripted_reference.in_process import InProcessReference

SCRIPTED_API = 1


@hookimpl
def scripted_register_engines() -> list[EngineSpec]:
    """The engine, in this process or as a server."""
    return [
        EngineSpec(
            name="reference",
            summary="Embedded, deterministic, in this process or as a server; simulated model "
            "`hash`, or a transformer",
            modes=(EngineMode.IN_PROCESS, EngineMode.SERVER),
        )
    ]


@hookimpl
def scripted_make_engine(config: EngineConfig) -> InProcessReference | ServerLaunch | None:
    """One engine of a configuration of ours, or the command that starts its server."""
    if config.engine != "reference":
        return None
    if config.mode is EngineMode.SERVER:
        from scripted_reference.server.launch import server_launch

        return server_launch(config)
    from scripted_reference.in_process import InProcessReference

    return InProcessReference(config)


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """The engine's own tests: what scripts find on it is the backends' to test."""
    return [
        CiStage(
            name="reference",
            runner="cpu",
            summary="tests of the reference engine itself, in-process and as a server",
            engine="reference",
            packages=(
                "scripted-registry[ci]",
                "scripted-reference[tiny]",
                "pytest>=9",
                "hypothesis",
            ),
            command="python -m pytest {tests}",
        )
    ]

"""The registration of the reference engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripted_registry import EngineConfig, EngineMode, EngineSpec, hookimpl

if TYPE_CHECKING:
    from scripted_reference.in_process import InProcessReference

SCRIPTED_API = 1


@hookimpl
def scripted_register_engines() -> list[EngineSpec]:
    """The engine, in-process."""
    return [
        EngineSpec(
            name="reference",
            summary="Embedded, deterministic, in this process; hash model with known outputs",
            modes=(EngineMode.IN_PROCESS,),
        )
    ]


@hookimpl
def scripted_make_engine(config: EngineConfig) -> InProcessReference | None:
    """One engine of a configuration of ours."""
    if config.engine != "reference":
        return None
    from scripted_reference.in_process import InProcessReference

    return InProcessReference(config)

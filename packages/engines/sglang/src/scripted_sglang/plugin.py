"""The registration of SGLang as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scripted_registry import EngineConfig, EngineMode, EngineSpec, hookimpl

if TYPE_CHECKING:
    from scripted_core.sessions.launch import ServerLaunch

SCRIPTED_API = 1


@hookimpl
def scripted_register_engines() -> list[EngineSpec]:
    """SGLang, in processes of its own."""
    return [
        EngineSpec(
            name="sglang",
            summary="The installed SGLang, unpatched, as a server",
            modes=(EngineMode.SERVER,),
            check=_check,
            remark=_remark,
            lacks=_lacks,
        )
    ]


def _check() -> str | None:
    from scripted_sglang.launch import check_usable

    return check_usable()


def _remark() -> str | None:
    from scripted_sglang.probes import TESTED_VERSIONS, describe_installation

    installation = describe_installation()
    if installation is None or (installation.is_tested and not installation.missing):
        return None
    tested = "tested" if installation.is_tested else f"untested (tested: {_and(TESTED_VERSIONS)})"
    return f"SGLang {installation.version} is {tested}: {installation.summary}"


def _lacks(config: EngineConfig) -> frozenset[str]:
    from scripted_sglang.launch import lacking

    return lacking(config.kwargs)


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1]


@hookimpl
def scripted_make_engine(config: EngineConfig) -> ServerLaunch | None:
    """The command that starts a server of a configuration of ours."""
    if config.engine != "sglang":
        return None
    from scripted_sglang.server import server_launch

    return server_launch(config)

"""The registration of this package's CI stages."""

from __future__ import annotations

from scripted_registry import CiStage, hookimpl

SCRIPTED_API = 1


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """The scripts of prefill/decode pairs, on the embedded engine."""
    return [
        CiStage(
            name="pd",
            runner="cpu",
            summary="prefill/decode pairs on the reference engine",
            engine="reference",
            packages=("pytest>=9",),
            command="python -m pytest {tests} --scripted-backend reference",
        ),
    ]

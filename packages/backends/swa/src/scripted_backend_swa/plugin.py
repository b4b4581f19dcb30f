"""The registration of this package's CI stages."""

from __future__ import annotations

from scripted_registry import CiStage, hookimpl

SCRIPTED_API = 1


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """The scripts of sliding windows, on the embedded engine and on SGLang without a GPU."""
    return [
        CiStage(
            name="swa",
            runner="cpu",
            summary="sliding-window scripts on the reference engine",
            engine="reference",
            packages=("pytest>=9",),
            command="python -m pytest {tests} --scripted-backend reference",
        ),
        CiStage(
            name="swa-sglang",
            runner="cpu",
            summary="sliding-window scripts on SGLang without a GPU",
            engine="sglang",
            packages=("pytest>=9",),
            command="python -m pytest {tests} --scripted-backend sglang",
        ),
    ]

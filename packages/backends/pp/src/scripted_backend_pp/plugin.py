"""The registration of this package's CI stages."""

from __future__ import annotations

from scripted_registry import CiStage, hookimpl

SCRIPTED_API = 1


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """The scripts of pipelines, on the embedded engine and on SGLang without GPUs and with four."""
    return [
        CiStage(
            name="pp",
            runner="cpu",
            summary="pipeline-parallel scripts on the reference engine",
            engine="reference",
            packages=("pytest>=9",),
            command="python -m pytest {tests} --scripted-backend reference",
        ),
        CiStage(
            name="pp-sglang",
            runner="cpu",
            summary="pipeline-parallel scripts on SGLang without a GPU, two stages",
            engine="sglang",
            packages=("pytest>=9",),
            command="python -m pytest {tests} --scripted-backend sglang",
        ),
    ]

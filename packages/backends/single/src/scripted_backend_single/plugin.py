"""The registration of this package's CI stages."""

from __future__ import annotations

from scripted_registry import CiStage, hookimpl

SCRIPTED_API = 1


@hookimpl
def scripted_register_ci_stages() -> list[CiStage]:
    """The scripts of one device, on the embedded engine and on SGLang without a GPU."""
    return [
        CiStage(
            name="single",
            runner="cpu",
            summary="single-device scripts on the reference engine",
            engine="reference",
            packages=("scripted-core[reference]", "scripted-registry[ci]", "pytest>=9"),
            command="python -m pytest {tests} --scripted-backend reference",
        ),
        CiStage(
            name="single-sglang",
            runner="cpu",
            summary="single-device scripts on SGLang without a GPU",
            engine="sglang",
            packages=("scripted-core[sglang]", "scripted-registry[ci]", "pytest>=9"),
            command="python -m pytest {tests} --scripted-backend sglang",
        ),
    ]

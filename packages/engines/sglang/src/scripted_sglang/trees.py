"""Which prefix trees the installed SGLang has."""

from __future__ import annotations

from enum import StrEnum

from scripted_sglang.arguments import source_folder


class TreeCore(StrEnum):
    """Where a tree keeps its nodes."""

    LEGACY = "legacy"
    """Of 0.5.15: the radix tree itself."""
    PYTHON = "python"
    RUST = "rust"


def installed_cores() -> frozenset[TreeCore]:
    """The trees that a server of the installed SGLang can be started with; none without SGLang."""
    package = source_folder()
    if package is None:
        return frozenset()
    folder = package / "srt" / "mem_cache"
    if not (folder / "unified_cache" / "unified_tree_core.py").is_file():
        return frozenset({TreeCore.LEGACY})
    has_rust = any((folder / "rust_tree_core").glob("mem_cache*.so"))
    return frozenset({TreeCore.PYTHON, TreeCore.RUST} if has_rust else {TreeCore.PYTHON})

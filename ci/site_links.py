"""A hook of mkdocs: what the pages link to outside `docs/` is named on the site, not linked.

A link to something that is not in the repository stays as it is, and `--strict` refuses it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+[^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **rest: Any) -> str:
    """Called by mkdocs with the text of each page."""
    folder = Path(page.file.abs_src_path).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        inside = target.is_relative_to(ROOT / "docs")
        if inside or not target.exists() or not target.is_relative_to(ROOT):
            return link[0]
        path = str(target.relative_to(ROOT))
        return link[1] if path in link[1] else f"{link[1]} (`{path}`)"

    return _LINK.sub(named, markdown)

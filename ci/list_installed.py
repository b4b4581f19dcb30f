"""Print `name==version` of everything that is installed here and is not of this workspace."""

from __future__ import annotations

import importlib.metadata
import json

INSTALLERS = {"pip", "uv", "setuptools", "wheel"}


def pins() -> list[str]:
    """Return the lines in order; editable distributions are the workspace's own."""
    found = set()
    for distribution in importlib.metadata.distributions():
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        editable = origin.get("dir_info", {}).get("editable", False)
        if not editable and distribution.name not in INSTALLERS:
            found.add(f"{distribution.name}=={distribution.version.partition('+')[0]}")
    return sorted(found, key=str.lower)


if __name__ == "__main__":
    print("\n".join(pins()))

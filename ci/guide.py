"""The author's guide as something that runs: its files and commands, in the order in which they stand.

`python ci/guide.py --write` puts the template's files into the guide's blocks anew.
"""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from pathlib import Path

import copier
from workspace import ROOT

GUIDE = ROOT / "docs" / "authors.md"
TEMPLATE = ROOT / "templates" / "plugin"
CLONE = "PATH/TO/CLONE"
"""What the guide's commands call the clone of this repository."""
_BLOCK = re.compile(
    r'^```(?P<language>\w+)(?: title="(?P<file>[^"]+)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_END = "END_OF_A_FILE_OF_THE_GUIDE"


def generate(kind: str, name: str, folder: Path) -> None:
    """The template's output for a kind, with its default answers."""
    data = {"kind": kind, "name": name}
    copier.run_copy(str(TEMPLATE), str(folder), data=data, defaults=True, quiet=True)


def as_shell(text: str) -> str:
    """A guide as one shell script: each titled block is a file, each `$` line of a console a command."""
    lines = ["set -euo pipefail"]
    for block in _BLOCK.finditer(text):
        if block["file"] is not None:
            file = shlex.quote(block["file"])
            lines.append(f'mkdir -p "$(dirname {file})"')
            lines.append(f"cat > {file} <<'{_END}'\n{block['text']}{_END}")
        elif block["language"] == "console":
            lines += [
                line.removeprefix("$ ").replace(CLONE, shlex.quote(str(ROOT)))
                for line in block["text"].splitlines()
                if line.startswith("$ ")
            ]
    return "\n".join(lines) + "\n"


def files_of(text: str) -> dict[str, str]:
    """The files that a guide shows, by their path."""
    return {block["file"]: block["text"] for block in _BLOCK.finditer(text) if block["file"]}


def with_files_of(text: str, folder: Path) -> str:
    """A guide whose titled blocks are the files of `folder`."""

    def replaced(block: re.Match[str]) -> str:
        if block["file"] is None:
            return block[0]
        content = (folder / block["file"]).read_text(encoding="utf-8")
        return f'```{block["language"]} title="{block["file"]}"\n{content}```'

    return _BLOCK.sub(replaced, text)


def stale_files(folder: Path) -> list[str]:
    """Files of the guide that are not those of `folder`, and files of `folder` that it leaves out."""
    shown = files_of(GUIDE.read_text(encoding="utf-8"))
    made = {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".copier-answers.yml", "README.md")
    }
    return sorted(file for file in shown | made if shown.get(file) != made.get(file))


def main() -> None:
    """Write the guide's blocks anew, or say how it is used."""
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: python ci/guide.py --write")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "acme"
        generate("engine", "acme", folder)
        text = GUIDE.read_text(encoding="utf-8")
        GUIDE.write_text(with_files_of(text, folder), encoding="utf-8")
    print(f"{GUIDE.relative_to(ROOT)} has the template's files")


if __name__ == "__main__":
    main()

"""The tables as Markdown, and the document that keeps them."""

from __future__ import annotations

from pathlib import Path

from scripted_core.conformance.verdict import Conformance, Row, Verdict
from scripted_core.errors import ConfigError

_HEAD = "| call | means | verdict | seen |\n|---|---|---|---|"
_WORDS = {Verdict.DOES: "does", Verdict.SKIPS: "skips", Verdict.WRONG: "**wrong**"}


def as_markdown(result: Conformance) -> str:
    """One engine's table, with its figures above it."""
    rows = "\n".join(_line(row) for row in result.rows)
    return f"{result.summary}.\n\n{_HEAD}\n{rows}"


def _line(row: Row) -> str:
    cells = (f"`{row.call}`", row.means, _WORDS[row.verdict], row.seen)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells).rstrip() + " |"


def markers(backend: str) -> tuple[str, str]:
    """The lines in a document between which the table of an engine is."""
    return f"<!-- conformance {backend}: begin -->", f"<!-- conformance {backend}: end -->"


def written_into(text: str, result: Conformance) -> str:
    """``text`` with the table between the markers of its engine; ``ConfigError`` without them."""
    begin, end = markers(result.backend)
    before, found_begin, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ConfigError(
            f"the document has no place for the table of {result.backend!r}",
            hint=f"put the lines {begin!r} and {end!r} into it",
        )
    return f"{before}{begin}\n\n{as_markdown(result)}\n\n{end}{after}"


def write_document(file: Path, result: Conformance) -> None:
    """Put the table into ``file``."""
    file.write_text(written_into(_read(file), result), encoding="utf-8")


def check_document(file: Path, result: Conformance) -> list[str]:
    """Lines of the table that ``file`` has otherwise; none when it says what was found."""
    text = _read(file)
    wanted = written_into(text, result)
    if wanted == text:
        return []
    known = set(text.splitlines())
    return [line for line in wanted.splitlines() if line not in known] or [
        "the document has lines that are not in the table any more"
    ]


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{file} cannot be read: {error}", hint="give the path of a Markdown document"
        ) from error

"""Scripts that fail because the engine is wrong: kept, written up, and red once it is mended.

A skipped script would say nothing, and a plain xfail would pass over any other failure. The mark names
the releases that have the defect, the page that describes it and what the failure says; on those
releases it becomes a strict ``xfail`` of exactly that failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from scripted_core.errors import ConfigError

MARK = "scripted_known_defect"
_NAMES = ("engine", "releases", "finding", "match")
_EXAMPLE = (
    '@pytest.mark.scripted_known_defect(engine="sglang", releases="<=0.5.23", '
    'finding="docs/findings/the-page.md", match="what the failure says")'
)


@dataclass(frozen=True)
class KnownDefect:
    """One mark, checked. ``releases`` are those that were seen to have it."""

    engine: str
    releases: SpecifierSet
    finding: str
    match: re.Pattern[str]

    def applies_to(self, engine: str, version: str) -> bool:
        """Whether this release of the engine has the defect; one with no readable version has not."""
        if engine != self.engine:
            return False
        try:
            return self.releases.contains(Version(version), prereleases=True)
        except InvalidVersion:
            return False

    def as_xfail(self) -> pytest.MarkDecorator:
        """Fails as described, or the test is red: another failure, and no failure at all."""
        releases = f" {self.releases}" if str(self.releases) else ""
        return pytest.mark.xfail(
            reason=f"known defect of {self.engine}{releases}, see {self.finding}",
            raises=pytest.RaisesExc(Exception, match=self.match),
            strict=True,
        )


def known_defects(item: pytest.Item) -> Iterator[KnownDefect]:
    """The defects that an item is marked with; ``ConfigError`` for a mark that says too little."""
    for mark in item.iter_markers(MARK):
        yield _read(dict(mark.kwargs), mark.args, root=item.config.rootpath)


def expect_known_defects(item: pytest.Item, *, engine: str, version: str) -> None:
    """Turn the marks that apply to this release of the engine into strict xfails."""
    for defect in known_defects(item):
        if defect.applies_to(engine, version):
            item.add_marker(defect.as_xfail())


def _read(given: dict[str, Any], args: tuple[object, ...], *, root: Path) -> KnownDefect:
    unknown = [repr(value) for value in args] + [name for name in given if name not in _NAMES]
    if unknown:
        raise _wrong(f"does not take {', '.join(unknown)}")
    texts = {}
    for name in ("engine", "finding", "match"):
        value = given.get(name)
        if not isinstance(value, str) or not value:
            raise _wrong(f"needs {name}= as a text, not {value!r}")
        texts[name] = value
    if "://" not in texts["finding"] and not (root / texts["finding"]).is_file():
        raise _wrong(f"names the finding {texts['finding']!r}, which is not in {root}")
    try:
        releases = SpecifierSet(given.get("releases", ""))
    except (InvalidSpecifier, TypeError, AttributeError):
        raise _wrong(
            f"cannot read releases={given['releases']!r}: it is a version specifier such as '<=0.5.20'"
        ) from None
    try:
        match = re.compile(texts["match"])
    except re.error as error:
        raise _wrong(f"cannot read match={texts['match']!r}: {error}") from None
    return KnownDefect(texts["engine"], releases, texts["finding"], match)


def _wrong(what: str) -> ConfigError:
    return ConfigError(f"@pytest.mark.{MARK} {what}", hint=f"for example {_EXAMPLE}")

"""Finding plugins: the entry points of the group "scripted", and modules named by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from scripted_registry._nearest import listed, nearest
from scripted_registry._settings import ALL, DISABLE, EXTRA
from scripted_registry.errors import PluginImportError, PluginNotFound

ENTRY_POINT_GROUP = "scripted"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A plugin that can be loaded: `value` is its `module` or `module:object`.

    `in_sources`: it was found in a repository, and need not be installed.
    """

    name: str
    value: str
    distribution: str
    version: str | None
    by_hand: bool = False
    in_sources: bool = False

    @property
    def source(self) -> str:
        """Who brings it, for messages."""
        return f"{self.distribution} (entry point {self.name!r} = {self.value!r})"

    def load(self) -> object:
        """Import it and return the module or object; `PluginImportError` when that fails."""
        try:
            return EntryPoint(self.name, self.value, ENTRY_POINT_GROUP).load()
        except Exception as error:
            raise PluginImportError(
                f"plugin {self.value!r} named by {EXTRA} fails to import: {_said(error)}"
                if self.by_hand
                else f"the plugin of {self.source} fails to import: {_said(error)}",
                hint=self._hint(),
            ) from error

    def _hint(self) -> str:
        """What to do about an import that fails."""
        if self.in_sources:
            return (
                "a plugin module is imported without its package being installed: import what is "
                "heavy inside functions, also in the package's __init__, or install here what it "
                "needs"
            )
        what = self.value.partition(":")[0]
        if self.by_hand:
            return f"try `python -c 'import {what}'`; mend it, or take it out of {EXTRA}"
        return (
            f"try `python -c 'import {what}'`; reinstall {self.distribution}, "
            f"or go on without it: {DISABLE}={self.name}"
        )


def _said(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def installed_candidates() -> list[Candidate]:
    """Return the installed entry points, in an order that does not depend on `sys.path`."""
    found = [
        Candidate(
            name=point.name,
            value=point.value,
            distribution=point.dist.name if point.dist is not None else point.module,
            version=point.dist.version if point.dist is not None else None,
        )
        for point in entry_points(group=ENTRY_POINT_GROUP)
    ]
    return _in_order(found)


def with_replaced(
    installed: Iterable[Candidate], replacing: Mapping[str, Iterable[Candidate]]
) -> list[Candidate]:
    """Return `installed` with all plugins of some distributions replaced, in the usual order."""
    replaced = {normalized(distribution) for distribution in replacing}
    kept = [one for one in installed if normalized(one.distribution) not in replaced]
    return _in_order(kept + [one for several in replacing.values() for one in several])


def _in_order(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: (candidate.distribution, candidate.name))


def extra_candidates(values: Iterable[str], *, installed: Iterable[Candidate]) -> list[Candidate]:
    """Return candidates for modules named by hand.

    One that is also an installed entry point keeps the name and distribution of that.
    """
    by_value = {candidate.value: candidate for candidate in installed}
    return [
        by_value.get(value)
        or Candidate(name=value, value=value, distribution=value, version=None, by_hand=True)
        for value in dict.fromkeys(values)
    ]


def is_disabled(candidate: Candidate, disabled: Iterable[str]) -> bool:
    """Whether the candidate's entry point or distribution is among the disabled names."""
    names = set(disabled)
    return (
        ALL in names
        or candidate.name in names
        or normalized(candidate.distribution) in {normalized(name) for name in names}
    )


def check_disabled_names(disabled: Iterable[str], *, installed: Iterable[Candidate]) -> None:
    """Raise `PluginNotFound` for a disabled name that nothing installed has: a silent misspelling
    would load the very plugin that was to stay out.
    """
    known: set[str] = {ALL}
    for candidate in installed:
        known |= {candidate.name, candidate.distribution}
    folded = known | {normalized(name) for name in known}
    for name in disabled:
        if name in folded or normalized(name) in folded:
            continue
        match = nearest(name, known)
        raise PluginNotFound(
            f"{DISABLE} names {name!r}, which is neither an installed plugin nor a distribution; "
            f"there are: {listed(known)}",
            hint=f"did you mean {match!r}?" if match else f"take it out of {DISABLE}",
        )


def normalized(distribution: str) -> str:
    """Return a distribution name as package indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()

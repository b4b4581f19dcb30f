"""The environment variables that steer plugin discovery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scripted_registry.errors import ConfigError

DISABLE = "SCRIPTED_DISABLE_PLUGINS"
EXTRA = "SCRIPTED_PLUGINS"
TRACE = "SCRIPTED_TRACE_PLUGINS"
ALL = "all"

_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, kw_only=True)
class PluginSettings:
    """What the environment says: entry points to leave out, modules to add, whether to trace."""

    disabled: tuple[str, ...]
    extra: tuple[str, ...]
    trace: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> PluginSettings:
        """Read the settings; `ConfigError` on a switch that is neither on nor off."""
        return cls(
            disabled=_split(environ.get(DISABLE, "")),
            extra=_split(environ.get(EXTRA, "")),
            trace=_switch(TRACE, environ.get(TRACE, "")),
        )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _switch(variable: str, text: str) -> bool:
    folded = text.strip().casefold()
    if folded in _ON:
        return True
    if folded in _OFF:
        return False
    raise ConfigError(f"{variable} is {text!r}", hint="set it to 1, or to 0")

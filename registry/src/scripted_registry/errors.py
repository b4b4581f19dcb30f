"""The root of the error tree: every error that scripted raises on purpose is a `ScriptedError`.

Each class has a stable `code` for machines and each instance a message that names the input, with
a hint that names the remedy. Higher packages add their own branches (engine, transport, script,
resource) on top of `ScriptedError`.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ScriptedError(Exception):
    """Base of every error that scripted raises on purpose.

    `code` is a kebab-case string that stays the same across releases; `hint` says what to do, or is
    `None`. An error travels between processes: its class, message, hint and attributes survive
    pickling whatever signature a subclass gives its `__init__`.
    """

    code: ClassVar[str] = "scripted-error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    @property
    def message(self) -> str:
        """The message without the hint."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        if self.hint is None:
            return self.message
        return f"{self.message}\nhint: {self.hint}"

    def __repr__(self) -> str:
        hint = "" if self.hint is None else f", hint={self.hint!r}"
        return f"{type(self).__name__}({self.message!r}{hint})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which fails for a subclass with required keywords.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(
    cls: type[ScriptedError], args: tuple[Any, ...], state: dict[str, Any]
) -> ScriptedError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class ConfigError(ScriptedError):
    """A setting, argument or environment variable that cannot be used."""

    code = "config-invalid"


class PluginError(ScriptedError):
    """Something about a plugin, or about finding one."""

    code = "plugin-error"


class PluginNotFound(PluginError):
    """A name that no installed plugin provides."""

    code = "plugin-not-found"


class PluginConflict(PluginError):
    """Two plugins that provide the same name."""

    code = "plugin-conflict"


class PluginContractError(PluginError):
    """A plugin that breaks the contract: API number, hook name, hook arguments or return value."""

    code = "plugin-contract-broken"


class PluginImportError(PluginError):
    """A plugin that fails to import; the original error is the `__cause__`."""

    code = "plugin-import-failed"

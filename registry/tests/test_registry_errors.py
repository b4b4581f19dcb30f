from __future__ import annotations

import copy
import pickle
import re

import pytest
from scripted_registry import (
    ConfigError,
    PluginConflict,
    PluginContractError,
    PluginError,
    PluginImportError,
    PluginNotFound,
    ScriptedError,
)
from scripted_registry.ci import register_cpu_ci
from scripted_registry.ci.scan import CiRegistrationError
from scripted_registry.errors import ScriptedError as SameScriptedError

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

ALL: list[type[ScriptedError]] = [
    ScriptedError,
    ConfigError,
    PluginError,
    PluginNotFound,
    PluginConflict,
    PluginContractError,
    PluginImportError,
    CiRegistrationError,
]


class NeedsKeyword(ScriptedError):
    code = "needs-keyword"

    def __init__(self, *, pid: int) -> None:
        super().__init__(f"process {pid} died", hint="see its log")
        self.pid = pid


def test_codes_are_kebab_case_and_unique() -> None:
    codes = [cls.code for cls in ALL]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)+", code) for code in codes)


def test_the_tree() -> None:
    assert issubclass(ConfigError, ScriptedError)
    assert issubclass(CiRegistrationError, ConfigError)
    for cls in (PluginNotFound, PluginConflict, PluginContractError, PluginImportError):
        assert issubclass(cls, PluginError)
    assert issubclass(PluginError, ScriptedError)
    assert ScriptedError is SameScriptedError


def test_str_has_the_hint_only_when_there_is_one() -> None:
    assert str(ConfigError("bad port")) == "bad port"
    assert str(ConfigError("bad port", hint="use 1 to 65535")) == ("bad port\nhint: use 1 to 65535")
    assert repr(ConfigError("bad", hint="good")) == "ConfigError('bad', hint='good')"
    assert repr(ConfigError("bad")) == "ConfigError('bad')"


@pytest.mark.parametrize("transfer", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_errors_travel(transfer: object) -> None:
    assert callable(transfer)
    for error in (PluginNotFound("no x", hint="install it"), NeedsKeyword(pid=7)):
        error.add_note("while testing")
        other = transfer(error)
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.args == error.args
        assert other.__dict__ == error.__dict__
        assert other.__notes__ == ["while testing"]


def test_an_error_is_raised_and_caught_as_any_other() -> None:
    with pytest.raises(ScriptedError, match="no engine") as caught:
        raise PluginNotFound("no engine", hint="pip install it")
    assert caught.value.message == "no engine"
    assert caught.value.hint == "pip install it"

"""How an SGLang server is started: its command line, its environment, and whether it can be.

Everything here is a pure function of its arguments, the environment and what is installed; nothing
imports SGLang and nothing is started.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from scripted_core.capabilities import Capability
from scripted_registry.errors import ConfigError

from scripted_sglang._compat.needs import CORES_OF_EVERY_RANK
from scripted_sglang.arguments import Argument, ArgumentKind, server_arguments, source_folder
from scripted_sglang.pair_transport import why_no_transfer
from scripted_sglang.probes import TESTED_VERSIONS, installed_version
from scripted_sglang.source import defines
from scripted_sglang.standins import standin_pythonpath

# The first release with the `sglang.srt.plugins` entry-point group.
OLDEST_VERSION: Final = (0, 5, 12)
# Our name in that group.
PLUGIN_NAME: Final = "scripted"
_HOW_TO_INSTALL: Final = "on a CPU with --no-deps; see Install in the README of scripted-sglang"
# A script may hold the engine for as long as it likes; the engine's own watchdog must not end it.
_WATCHDOG_TIMEOUT_S: Final = 1_000_000

# Capabilities of what there has to be several of.
_FROM_TWO_ON: Final = {Capability.DP: "dp_size", Capability.PP: "pp_size"}

_NO_CANARY: Final[dict[str, Any]] = {
    "kv_canary": "none",
    "kv_canary_sweep_interval": 0,
    "kv_canary_real_data": "none",
}
_CPU_KWARGS: Final[dict[str, Any]] = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "dtype": "float32",
    "max_total_tokens": 4096,
    "max_running_requests": 8,
    "skip_server_warmup": True,
}
_GPU_KWARGS: Final[dict[str, Any]] = {
    "attention_backend": "triton",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "mem_fraction_static": 0.3,
}


def check_usable() -> str | None:
    """Return why SGLang cannot be used here and what to type, or `None` if it can.

    Only what is cheap to see is looked at: the installed SGLang and its version, and torch. A
    release that the adapter was not tested with is usable.
    """
    version = installed_version()
    if version is None:
        return (
            f"SGLang is not installed: pip install sglang=={TESTED_VERSIONS[0]} ({_HOW_TO_INSTALL})"
        )
    if _release(version) < OLDEST_VERSION:
        oldest = ".".join(map(str, OLDEST_VERSION))
        return (
            f"SGLang {version} is too old, plugins exist since {oldest}: "
            f"pip install sglang=={TESTED_VERSIONS[0]} ({_HOW_TO_INSTALL})"
        )
    if importlib.util.find_spec("torch") is None:
        return f"SGLang {version} is installed without torch"
    if source_folder() is None:
        return f"SGLang {version} is registered as installed, but its package cannot be found"
    return None


def default_kwargs(*, cpu: bool) -> dict[str, Any]:
    """Return the engine arguments that scripts run with unless they say otherwise.

    Those that the installed SGLang does not know are left out, so that an older release starts.
    """
    kwargs = {
        **(_CPU_KWARGS if cpu else _GPU_KWARGS),
        **_NO_CANARY,
        "watchdog_timeout": _WATCHDOG_TIMEOUT_S,
        "random_seed": 0,
    }
    return _known(kwargs)


def held_for_long() -> dict[str, Any]:
    """Return what several ranks need so that they wait for each other as long as a script holds one."""
    return _known({"dist_timeout": _WATCHDOG_TIMEOUT_S})


def _known(kwargs: dict[str, Any]) -> dict[str, Any]:
    package = source_folder()
    if package is None:
        return kwargs
    known = server_arguments(package)
    return {name: value for name, value in kwargs.items() if name in known}


def lacking(kwargs: Mapping[str, object]) -> frozenset[str]:
    """Return the capabilities that a server with these arguments cannot have, whatever its model."""
    found = {Capability.CLOSED_FORM_OUTPUT}
    if kwargs.get("disaggregation_mode") != "pair" or why_no_transfer() is not None:
        found |= {Capability.PD_PREFILL, Capability.PD_DECODE}
    else:
        found |= {Capability.PREFIX_CACHE, Capability.LOCK_REFS}
    found |= {
        capability for capability, name in _FROM_TWO_ON.items() if (kwargs.get(name) or 1) == 1
    }
    if not kwargs.get("enable_priority_scheduling"):
        found.add(Capability.PRIORITY)
    if kwargs.get("disable_radix_cache"):
        found |= {Capability.PREFIX_CACHE, Capability.LOCK_REFS}
    return frozenset(capability.value for capability in found)


def server_env(*, cpu: bool, ranks: int = 1, tp_size: int = 1) -> dict[str, str]:
    """Return the environment variables to set for an engine process, on top of the inherited ones.

    On a CPU that includes `PYTHONPATH` with the stand-ins in front of what is inherited. `ranks` is
    the number of scheduler processes, `tp_size` of them a tensor parallel group; each gets a core of
    its own, where the installed SGLang can be told so.
    """
    env = {
        # The Rust tree core hands out ids where scripts look at nodes.
        "SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python",
        # A broken scheduler ends at once, not after five seconds of diagnostics.
        "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
        "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
    }
    allowed = [name.strip() for name in os.environ.get("SGLANG_PLUGINS", "").split(",")]
    if any(allowed) and PLUGIN_NAME not in allowed:
        env["SGLANG_PLUGINS"] = ",".join([*filter(None, allowed), PLUGIN_NAME])
    if not cpu:
        return env
    env |= {"SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if ranks > 1:
        cores = os.cpu_count() or 1
        # Layers of tensor parallel models are compiled, which looks for what stand-ins do not have.
        env["TORCHDYNAMO_DISABLE"] = "1"
        package = source_folder()
        bound = tp_size if package and not defines(package, CORES_OF_EVERY_RANK) else ranks
        if bound > 1:
            names = [str(rank % cores) for rank in range(bound)]
            env["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(names)
    entries = [str(entry) for entry in standin_pythonpath()]
    if entries:
        inherited = os.environ.get("PYTHONPATH", "")
        env["PYTHONPATH"] = os.pathsep.join([*entries, *([inherited] if inherited else [])])
    return env


def server_argv(kwargs: Mapping[str, object], *, host: str, port: int) -> list[str]:
    """Return the command that starts a server with `kwargs`, SGLang's own argument names.

    `None` leaves an argument at its default; booleans become switches, lists several values and
    mappings JSON. Raises `ConfigError` for an argument that the installed SGLang does not have, or
    has no flag for, and for a value that its flag cannot express; also when SGLang is missing.
    """
    package = source_folder()
    if package is None:
        raise ConfigError(
            "SGLang is not installed, so no server can be started",
            hint="install it beside scripted-sglang; the README says how on a CPU",
        )
    known = server_arguments(package)
    argv = [sys.executable, "-m", "sglang.launch_server", "--host", host, "--port", str(port)]
    for name, value in kwargs.items():
        if name in {"host", "port"}:
            raise ConfigError(
                f"{name!r} is chosen by the session and cannot be an engine argument",
                hint="leave it out",
            )
        argument = known.get(name)
        if argument is None:
            raise _unknown(name, known)
        if value is not None:
            argv.extend(_written(argument, value))
    return argv


def _written(argument: Argument, value: object) -> Iterator[str]:
    if not argument.has_flag:
        raise ConfigError(
            f"SGLang {installed_version()} has no command-line flag for {argument.name!r}",
            hint="it can only be set from inside SGLang; leave it out",
        )
    match argument.kind:
        case ArgumentKind.SWITCH | ArgumentKind.TOGGLE:
            yield from _switch(argument, value)
        case ArgumentKind.VALUES:
            values = [_scalar(argument, item) for item in _items(value)]
            if values:
                yield argument.flag
                yield from values
        case ArgumentKind.JSON:
            yield argument.flag
            yield value if isinstance(value, str) else json.dumps(value)
        case ArgumentKind.VALUE:
            text = _checked(argument, _scalar(argument, value))
            # The one-word form, so that a value may begin with a dash.
            yield f"{argument.flag}={text}"


def _switch(argument: Argument, value: object) -> Iterator[str]:
    if not isinstance(value, bool):
        raise ConfigError(f"{argument.name} is on or off, not {value!r}", hint="give True or False")
    if value:
        yield argument.flag
    elif argument.kind is ArgumentKind.TOGGLE:
        yield "--no-" + argument.flag.removeprefix("--")
    elif argument.default_on:
        raise ConfigError(
            f"{argument.name} is on by default and SGLang has no flag to switch it off",
            hint="leave it out",
        )


def _items(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return [f"{key}={item}" for key, item in value.items()]
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _scalar(argument: Argument, value: object) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, (str, int, float, os.PathLike)) and not isinstance(value, bool):
        return str(value)
    raise ConfigError(
        f"{argument.name}={value!r} cannot be written on SGLang's command line",
        hint=f"{argument.flag} takes text or a number",
    )


def _checked(argument: Argument, text: str) -> str:
    """``text`` if SGLang's parser would take it; what it leaves to later is SGLang's to refuse."""
    if argument.number is not None:
        try:
            argument.number(text)
        except ValueError:
            kind = "a whole number" if argument.number is int else "a number"
            raise ConfigError(
                f"{argument.name}={text!r} is not {kind}", hint=f"{argument.flag} takes {kind}"
            ) from None
    if argument.choices and text not in argument.choices:
        near = difflib.get_close_matches(text, argument.choices, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"{argument.name}={text!r} is not one of its values",
            hint=f"{hint}It takes {', '.join(map(repr, argument.choices))}",
        )
    return text


def _unknown(name: str, known: Mapping[str, Argument]) -> ConfigError:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}?" if near else "see SGLang's server arguments"
    return ConfigError(f"SGLang {installed_version()} has no argument {name!r}", hint=hint)


def _release(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()

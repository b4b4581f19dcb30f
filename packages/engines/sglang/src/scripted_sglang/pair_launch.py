"""From a configuration to the three processes of a prefill/decode pair: two servers and a router."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, Final

from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_core.free_ports import free_ports
from scripted_core.sessions.launch import ServerLaunch, ServerMember
from scripted_core.views import Side
from scripted_registry import EngineConfig

from scripted_sglang.environment import ENV_BASE_URL
from scripted_sglang.pair_transport import why_no_transfer
from scripted_sglang.server import HIGHEST_PORT, HOST, one_server, port_of

_ONLY_OF_PREFILL: Final = "prefill_kwargs"
_ONLY_OF_DECODE: Final = "decode_kwargs"
_SIZES: Final = ("tp_size", "pp_size", "dp_size")
_SEEN_BY_DECODE: Final = ("num_reserved_decode_tokens",)
_NEVER_S: Final = "1000000"

_ENV: Final = {
    # A script may hold either server for as long as it likes.
    "SGLANG_DISAGGREGATION_BOOTSTRAP_TIMEOUT": _NEVER_S,
    "SGLANG_DISAGGREGATION_WAITING_TIMEOUT": _NEVER_S,
    # Both are on this machine.
    "SGLANG_HOST_IP": HOST,
    "MC_TCP_ENABLE_CONNECTION_POOL": "true",
}

_ENV_ON_CPU: Final = {
    # With it, a prefill server asks for a CUDA event: docs/findings/sglang-pd-on-a-cpu.md.
    "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX": "0",
}

_ON_CPU: Final[dict[str, Any]] = {"disaggregation_transfer_backend": "mooncake_tcp"}
_DECODE: Final[dict[str, Any]] = {
    # The default, a pool of pinned memory, needs CUDA: docs/findings/sglang-pd-on-a-cpu.md.
    "disaggregation_decode_retraction_backup": "cpu_tensor",
    # For pools of a few thousand tokens; 512 for each request by default.
    "num_reserved_decode_tokens": 16,
}


def pair_launch(config: EngineConfig) -> ServerLaunch:
    """The launch of a pair: what both have in common, and ``prefill_kwargs`` and ``decode_kwargs``.

    Raises ``CapabilityMissing`` where nothing can carry KV between them, ``ConfigError`` for several
    ranks and for what is no mapping.
    """
    missing = why_no_transfer()
    if missing is not None:
        raise CapabilityMissing(
            f"disaggregation_mode='pair' needs the capabilities 'pd_prefill' and 'pd_decode': {missing}"
        )
    common = dict(config.kwargs)
    del common["disaggregation_mode"]
    sides = {
        Side.PREFILL: _mapping(common, _ONLY_OF_PREFILL),
        Side.DECODE: _mapping(common, _ONLY_OF_DECODE),
    }
    for name in _SEEN_BY_DECODE:
        if name in common:
            sides[Side.DECODE].setdefault(name, common.pop(name))
    _refuse_ranks(common, *sides.values())
    host = str(common.pop("host", None) or HOST)
    router_port = port_of(host, common.pop("port", None))
    bootstrap, *ports = free_ports(host, 5, highest=HIGHEST_PORT)
    router_url = f"http://{host}:{router_port}"
    members = []
    launches = []
    for index, (side, own) in enumerate(sides.items()):
        kwargs = {
            **_ON_CPU,
            **(_DECODE if side is Side.DECODE else {}),
            # Each looks for a free one by itself, and two that start at once may find the same.
            "nccl_port": ports[2 + index],
            **common,
            **own,
            "host": host,
            "port": ports[index],
            "disaggregation_mode": side.value,
            "disaggregation_bootstrap_port": bootstrap,
        }
        launch = one_server(dataclasses.replace(config, kwargs=kwargs))
        launches.append(launch)
        members.append(
            ServerMember(
                role=side.value,
                argv=launch.argv,
                host=host,
                port=launch.port,
                env={**_ENV, **_ENV_ON_CPU, **launch.env, ENV_BASE_URL: router_url},
            )
        )
    prefill, decode = members
    router = (sys.executable, "-m", "scripted_hook.pair.router", "--host", host)
    where = ("--port", str(router_port), "--bootstrap-port", str(bootstrap))
    return dataclasses.replace(
        launches[0],
        argv=(*router, *where, "--prefill", prefill.base_url, "--decode", decode.base_url),
        port=router_port,
        env={},
        ready_path="/health",
        members=(prefill, decode),
    )


def _mapping(common: dict[str, Any], name: str) -> dict[str, Any]:
    given = common.pop(name, None)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"{name}={given!r} is not a mapping of engine arguments",
            hint=f"for example {name}={{'max_total_tokens': 512}}",
        )
    return dict(given)


def _refuse_ranks(*given: Mapping[str, Any]) -> None:
    for kwargs in given:
        for name in _SIZES:
            if int(str(kwargs.get(name) or 1)) > 1:
                raise ConfigError(
                    f"{name}={kwargs[name]} together with disaggregation_mode='pair' cannot be "
                    "scripted yet",
                    hint="use one rank on each side",
                )

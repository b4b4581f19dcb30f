"""Every seeded fault, by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

# Each of these imports fills the catalogue.
from scripted_reference.faults import (
    memory,
    outputs,
    overlap,
    pairs,
    pipeline,
    prefix_tree,
    scheduling,
    speculation,
    windows,
)
from scripted_reference.faults.fault import Area, Fault, install, named, registered
from scripted_reference.faults.of_servers import ServerFault

if TYPE_CHECKING:
    from scripted_reference.engine import Engine

_MODULES: Final = (
    scheduling,
    memory,
    prefix_tree,
    overlap,
    outputs,
    windows,
    pipeline,
    pairs,
    speculation,
)
_ORDER: Final = list(Area)

FAULTS: Final[Mapping[str, Fault]] = MappingProxyType(
    {
        fault.name: fault
        for fault in sorted(registered(), key=lambda fault: _ORDER.index(fault.area))
    }
)
"""Area after area."""


def fault_named(name: object) -> Fault:
    """Return the fault of this name; `ConfigError` with the nearest one otherwise."""
    return named(name, FAULTS)


def check_name(name: object) -> None:
    """Raise `ConfigError` unless it names a fault of the catalogue, or one of servers."""
    if name not in tuple(ServerFault):
        fault_named(name)


def inject(name: str, engine: Engine) -> None:
    """Break a fresh engine by the fault of this name, in each of its replicas.

    A fault of servers leaves it whole: the server's processes bring that about themselves.
    """
    if name not in tuple(ServerFault):
        install(fault_named(name), engine)

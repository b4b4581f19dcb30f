"""The registration of the kit `occupancy`."""

from __future__ import annotations

from scripted_registry import KitSpec, hookimpl

SCRIPTED_API = 1


@hookimpl
def scripted_register_kits() -> list[KitSpec]:
    """One kit."""
    from scripted_kit_occupancy.kit import OCCUPANCY

    return [OCCUPANCY.spec()]

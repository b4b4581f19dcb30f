"""How busy the device is while one request decodes, against a floor.

Names are imported when they are first used: the plugin module beside this one has to be light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scripted_kit_occupancy._version import __version__

if TYPE_CHECKING:
    from scripted_kit_occupancy.kit import OCCUPANCY, OccupancyOptions
    from scripted_kit_occupancy.mixin import FwdOccupancyMixin
    from scripted_kit_occupancy.samples import Across

_MODULE_OF = {
    "OCCUPANCY": "kit",
    "OccupancyOptions": "kit",
    "FwdOccupancyMixin": "mixin",
    "Across": "samples",
}

__all__ = [
    "OCCUPANCY",
    "Across",
    "FwdOccupancyMixin",
    "OccupancyOptions",
    "__version__",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)

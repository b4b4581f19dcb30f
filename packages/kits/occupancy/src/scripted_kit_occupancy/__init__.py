"""How busy the device is while one request decodes, against a floor."""

from scripted_kit_occupancy._version import __version__
from scripted_kit_occupancy.kit import OCCUPANCY, OccupancyOptions
from scripted_kit_occupancy.mixin import FwdOccupancyMixin
from scripted_kit_occupancy.samples import Across

__all__ = ["OCCUPANCY", "Across", "FwdOccupancyMixin", "OccupancyOptions", "__version__"]

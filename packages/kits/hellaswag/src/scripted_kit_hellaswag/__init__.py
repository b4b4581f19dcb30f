"""Accuracy of a served model on HellaSwag's format, by the likelihood of endings."""

from scripted_kit_hellaswag._version import __version__
from scripted_kit_hellaswag.kit import HELLASWAG, HellaswagOptions, Scorer
from scripted_kit_hellaswag.mixin import HellaswagMixin
from scripted_kit_hellaswag.scoring import Normalize

__all__ = [
    "HELLASWAG",
    "HellaswagMixin",
    "HellaswagOptions",
    "Normalize",
    "Scorer",
    "__version__",
]

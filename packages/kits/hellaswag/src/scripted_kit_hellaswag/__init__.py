"""Accuracy of a served model on HellaSwag's format, by the likelihood of endings.

Names are imported when they are first used: the plugin module beside this one has to be light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scripted_kit_hellaswag._version import __version__

if TYPE_CHECKING:
    from scripted_kit_hellaswag.kit import HELLASWAG, HellaswagOptions, Scorer
    from scripted_kit_hellaswag.mixin import HellaswagMixin
    from scripted_kit_hellaswag.scoring import Normalize

_MODULE_OF = {
    "HELLASWAG": "kit",
    "HellaswagOptions": "kit",
    "Scorer": "kit",
    "HellaswagMixin": "mixin",
    "Normalize": "scoring",
}

__all__ = [
    "HELLASWAG",
    "HellaswagMixin",
    "HellaswagOptions",
    "Normalize",
    "Scorer",
    "__version__",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)

"""Sanity probes of any LLM server: API contract, decode correctness, scheduler stress.

Names are imported when they are first used: the plugin module beside this one has to be light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from scripted_kit_sanity._version import __version__

if TYPE_CHECKING:
    from scripted_kit_sanity.kit import PROBES, SANITY, probe_named
    from scripted_kit_sanity.mixins import (
        BasicAPIContractMixin,
        BasicDecodeCorrectnessMixin,
        BasicSchedulerStressMixin,
        PDLogprobParityMixin,
        SpecAcceptLengthMixin,
    )
    from scripted_kit_sanity.options import SanityOptions

_MODULE_OF = {
    "PROBES": "kit",
    "SANITY": "kit",
    "probe_named": "kit",
    "BasicAPIContractMixin": "mixins",
    "BasicDecodeCorrectnessMixin": "mixins",
    "BasicSchedulerStressMixin": "mixins",
    "PDLogprobParityMixin": "mixins",
    "SpecAcceptLengthMixin": "mixins",
    "SanityOptions": "options",
}

__all__ = [
    "PROBES",
    "SANITY",
    "BasicAPIContractMixin",
    "BasicDecodeCorrectnessMixin",
    "BasicSchedulerStressMixin",
    "PDLogprobParityMixin",
    "SanityOptions",
    "SpecAcceptLengthMixin",
    "__version__",
    "probe_named",
]


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)

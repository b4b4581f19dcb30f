"""Sanity probes of any LLM server: API contract, decode correctness, scheduler stress."""

from scripted_kit_sanity._version import __version__
from scripted_kit_sanity.kit import PROBES, SANITY, probe_named
from scripted_kit_sanity.mixins import (
    BasicAPIContractMixin,
    BasicDecodeCorrectnessMixin,
    BasicSchedulerStressMixin,
    PDLogprobParityMixin,
    SpecAcceptLengthMixin,
)
from scripted_kit_sanity.options import SanityOptions

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

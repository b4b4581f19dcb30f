"""KV canary for scripted: every KV slot proves that it holds what it should.

The canary itself is in ``scripted_canary.canary``. Only what lies on an accelerator needs torch.
"""

from __future__ import annotations

from scripted_canary._version import __version__
from scripted_canary.settings import CanaryMode, CanarySettings, RealData, settings_of
from scripted_canary.violations import KvCorrupted, KvViolation, Launch, Reason, ViolationLog

__all__ = [
    "CanaryMode",
    "CanarySettings",
    "KvCorrupted",
    "KvViolation",
    "Launch",
    "RealData",
    "Reason",
    "ViolationLog",
    "__version__",
    "settings_of",
]

"""The CI side: how tests register for a stage, and how those registrations are read.

Only the registration functions are here, because every registered test file imports them. The
scanner is in `scripted_registry.ci.scan`, the command line in `scripted_registry.ci.cli`.
"""

from __future__ import annotations

from scripted_registry.ci.register import register_ci, register_cpu_ci, register_cuda_ci

__all__ = ["register_ci", "register_cpu_ci", "register_cuda_ci"]

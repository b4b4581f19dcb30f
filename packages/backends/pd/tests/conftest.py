"""The fixture of this package, also where it is not installed with its entry point."""

from __future__ import annotations

from scripted_backend_pd.pytest_plugin import pd_pair

__all__ = ["pd_pair"]

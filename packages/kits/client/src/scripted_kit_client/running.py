"""Kits inside tests: printed first, judged afterwards."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from scripted_core.errors import ConfigError
from scripted_registry import get_plugin_manager

from scripted_kit_client.kit import Kit
from scripted_kit_client.output.markdown import look_at_step_summary, write_step_summary
from scripted_kit_client.output.terminal import print_report
from scripted_kit_client.report import KitReport
from scripted_kit_client.target import Target


def run_and_judge(kit: Kit[Any], target: Target, options: object) -> KitReport:
    """Run a kit, show its figures, and raise what `KitReport.raise_for_outcome` raises.

    `options` is what the kit takes: an object of its options class, or values by name.
    """
    look_at_step_summary()
    report = kit(target, options=options)
    print(file=sys.stdout)
    print_report(report)
    write_step_summary([report])
    report.raise_for_outcome()
    return report


def run_installed(name: str, target: Target, options: Mapping[str, object]) -> KitReport:
    """`run_and_judge` with the installed kit of this name; `ConfigError` when there is none."""
    spec = get_plugin_manager().kits().get(name)
    if spec is None or not isinstance(spec.run, Kit):
        raise ConfigError(
            f"no kit is called {name!r}", hint="`scripted kit list` shows what is installed"
        )
    return run_and_judge(spec.run, target, options)

"""All looks, one after the other. None of them imports torch or an engine."""

from __future__ import annotations

from scripted_core.cli.doctor.findings import Area, Level, Survey
from scripted_core.cli.doctor.installed import (
    look_at_distributions,
    look_at_pytest,
    look_at_python,
)
from scripted_core.cli.doctor.leftovers import look_at_leftovers
from scripted_core.cli.doctor.machine import look_at_parts, look_at_temporary_folder
from scripted_core.cli.doctor.plugins import look_at_engines, look_at_plugins


def survey(*, clean: bool) -> Survey:
    """Look at everything; ``clean`` deletes what dead sessions left behind."""
    plugins, about_plugins = look_at_plugins()
    engines = look_at_engines(plugins)
    findings = [
        *look_at_python(),
        *look_at_distributions(),
        *about_plugins,
        *engines,
        *look_at_parts(),
        *look_at_temporary_folder(),
        *look_at_leftovers(clean=clean),
        *look_at_pytest(),
    ]
    # Everything else can make a session fail, but only this can make all of them fail.
    sound = all(
        finding.level is not Level.MISSING
        for finding in findings
        if finding.area in (Area.PYTHON, Area.PLUGINS)
    )
    usable = any(finding.level is not Level.MISSING for finding in engines)
    return Survey(findings=findings, can_run=usable and sound)

"""SGLang's row of each call is the one that the documentation has."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_core.conformance import DEFAULT_ENGINE_KWARGS, check_document, run_conformance
from scripted_core.sessions.base import make_config
from scripted_registry import get_plugin_manager
from scripted_registry.ci import register_cpu_ci
from scripted_sglang.probes import TESTED_VERSIONS, installed_version

register_cpu_ci(est_time=40, stage="single-sglang", runner_config="cpu")

_DOCS = Path(__file__).parents[4] / "docs" / "conformance.md"
_KNOWN = {"in_place_defers_aborts_of_waiting", "exhaust_parks_a_chunk"}
"""Deviations of SGLang, explained in docs/semantics.md."""


def test_the_document_has_sglangs_table():
    check = get_plugin_manager().engine("sglang").check
    missing = check() if check is not None else None
    if missing is not None:
        pytest.skip(missing)
    # One server for all rows; the last of them is one that SGLang does not survive.
    result = run_conformance(make_config("sglang", DEFAULT_ENGINE_KWARGS))
    assert {row.check for row in result.wrong} == _KNOWN
    if installed_version() == TESTED_VERSIONS[0]:  # whose words the document has
        assert check_document(_DOCS, result) == []

"""Every scenario of chunked prefill under every pressure: outputs are those of an undisturbed run.

Each scenario meets each pressure on one engine, and each of both meets every engine of a selection in
which all pairs of page size, overlap, model and process occur. With ``SCRIPTED_FULL_MATRIX=1`` in the
environment, as at night, it is the full product.
"""

from __future__ import annotations

import os

import pytest
from scripted_backend_single import (
    PRESSURES,
    SCENARIOS,
    all_cases,
    all_configurations,
    compare_with_undisturbed,
    covering_cases,
    engine_axes,
    pairwise_configurations,
    single_device_kwargs,
)
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=60, stage="single", runner_config="cpu")
register_cpu_ci(est_time=300, stage="single-sglang", runner_config="cpu")

_ENV_FULL = "SCRIPTED_FULL_MATRIX"
_ENV_XDIST_SERVERS = "SCRIPTED_XDIST_SERVERS"


def _cases(backend):
    full = os.environ.get(_ENV_FULL, "") not in ("", "0")
    axes = engine_axes(backend, full=full)
    if full:
        return all_cases(list(SCENARIOS), list(PRESSURES), all_configurations(axes))
    return covering_cases(list(SCENARIOS), list(PRESSURES), pairwise_configurations(axes))


def _marks(configuration, *, is_worker):
    marks = [pytest.mark.scripted(**single_device_kwargs(**configuration.kwargs))]
    if configuration.missing is not None:
        marks.append(pytest.mark.skip(reason=configuration.missing))
    is_server = configuration.backend is not None and ":server" in configuration.backend
    if is_server and is_worker and not os.environ.get(_ENV_XDIST_SERVERS):
        reason = f"a server engine is not started in an xdist worker without {_ENV_XDIST_SERVERS}=1"
        marks.append(pytest.mark.skip(reason=reason))
    return marks


def pytest_generate_tests(metafunc):
    if "pressure" not in metafunc.fixturenames:
        return
    config = metafunc.config
    asked = config.getoption("scripted_backend") or config.getini("scripted_backend") or [None]
    is_worker = hasattr(config, "workerinput")
    # One backend, and the cases may say in which of its processes; several are told apart by pytest.
    by_case = len(asked) == 1
    params = []
    for case in _cases(asked[0] if by_case else "any"):
        values = [case.scenario, case.pressure]
        if by_case:
            values.append(case.configuration.backend or asked[0])
        params.append(
            pytest.param(
                *values,
                marks=_marks(case.configuration, is_worker=is_worker),
                id=case.label,
            )
        )
    names = ["scenario", "pressure", *(["scripted_backend"] if by_case else [])]
    metafunc.parametrize(names, params, indirect=names[2:])


def test_outputs_are_those_of_an_undisturbed_run(t, scenario, pressure):
    yield from compare_with_undisturbed(t, scenario=scenario, pressure=pressure)

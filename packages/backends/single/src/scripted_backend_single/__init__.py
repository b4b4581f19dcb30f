"""Single-device topology for scripted: engine arguments, CI stages, scenarios and pressures."""

from __future__ import annotations

from scripted_chunked.steps import (
    flush,
    require_at_rest,
    run_steps,
    settle,
    undisturbed_output,
)

from scripted_backend_single._version import __version__
from scripted_backend_single.arguments import (
    CHUNK_TOKENS,
    CONTEXT_TOKENS,
    PAGE_TOKENS,
    paged_device_kwargs,
    single_device_kwargs,
)
from scripted_backend_single.lora import ADAPTERS, drawn_lora, lora_device_kwargs, write_lora
from scripted_backend_single.matrix import (
    Axis,
    Case,
    Choice,
    Configuration,
    all_cases,
    all_configurations,
    covering_cases,
    engine_axes,
    pairwise_configurations,
)
from scripted_backend_single.pressures import PRESSURES, Applied, Pressure
from scripted_backend_single.running import (
    ScenarioRun,
    compare_with_undisturbed,
    require_undisturbed,
    run_scenario,
    undisturbed_outputs,
)
from scripted_backend_single.scenarios import SCENARIOS, Prompt, Scenario

__all__ = [
    "ADAPTERS",
    "CHUNK_TOKENS",
    "CONTEXT_TOKENS",
    "PAGE_TOKENS",
    "PRESSURES",
    "SCENARIOS",
    "Applied",
    "Axis",
    "Case",
    "Choice",
    "Configuration",
    "Pressure",
    "Prompt",
    "Scenario",
    "ScenarioRun",
    "__version__",
    "all_cases",
    "all_configurations",
    "compare_with_undisturbed",
    "covering_cases",
    "drawn_lora",
    "engine_axes",
    "flush",
    "lora_device_kwargs",
    "paged_device_kwargs",
    "pairwise_configurations",
    "require_at_rest",
    "require_undisturbed",
    "run_scenario",
    "run_steps",
    "settle",
    "single_device_kwargs",
    "undisturbed_output",
    "undisturbed_outputs",
    "write_lora",
]

"""What goes wrong inside SGLang: its own words are in the error, at once."""

from __future__ import annotations

import time
from typing import Any

import pytest
from scripted_core.errors import EngineDied, EngineDirty
from scripted_core.sessions import ScriptedHttpServer
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = pytest.mark.skipif(
    launch.check_usable() is not None,
    reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
)

_AT_ONCE_S = 5.0


def breaks_run_batch(t: Any, error: str, at: list[float]) -> Any:
    """The forward of a batch raises, as a kernel or an allocation may."""
    import torch

    kinds = {"RuntimeError": RuntimeError, "OutOfMemoryError": torch.OutOfMemoryError}

    def forward(*args: Any, **kwargs: Any) -> Any:
        raise kinds[error]("a planned end of the forward pass")

    t.start_req(prompt_len=20, max_new_tokens=50, ignore_eos=True)
    yield
    t.scheduler.tp_worker.forward_batch_generation = forward
    t.scheduler.model_worker.forward_batch_generation = forward
    while True:
        yield


@pytest.mark.parametrize("error", ["RuntimeError", "OutOfMemoryError"])
def test_an_exception_in_run_batch_is_the_engines_death_with_its_traceback(error: str) -> None:
    with ScriptedHttpServer.start(backend="sglang", chunked_prefill_size=64) as server:
        began = [time.monotonic()]  # the script, or its last step that was told of

        def on_step(step: Any) -> None:
            began.append(time.monotonic())

        with pytest.raises(EngineDied) as caught:
            server.execute_script(breaks_run_batch, args=(error, []), on_step=on_step)
        assert time.monotonic() - began[-1] < _AT_ONCE_S
        said = str(caught.value)
        assert f"broke: {error}: a planned end of the forward pass" in said
        assert "in run_batch" in said
        assert "log tail" in said
        with pytest.raises(EngineDirty, match="broke"):
            server.execute_script(breaks_run_batch, args=(error, []))

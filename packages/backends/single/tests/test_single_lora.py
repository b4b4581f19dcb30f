"""LoRA adapters: each request is answered by the adapter that it names, whatever else is there.

On SGLang the engine is started with priorities and mixed chunks as well, so that the scripts about
those share it.
"""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from scripted_backend_single import (
    ADAPTERS,
    lora_device_kwargs,
    require_at_rest,
    run_steps,
    settle,
)
from scripted_chunked import advance_to_decode_step, run_until_all_finished, run_until_finished
from scripted_core import InProcessSession
from scripted_core.sessions.base import parse_backend
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=5, stage="single", runner_config="cpu")
register_cpu_ci(est_time=30, stage="single-sglang", runner_config="cpu")

pytest.importorskip("torch", reason="torch is not installed; the model 'tiny' needs it")
models = pytest.importorskip("scripted_models", reason="scripted-models is not installed")

pytestmark = pytest.mark.scripted_requires("lora")

_PROMPT = {"prompt_len": 50, "max_new_tokens": 12, "ignore_eos": True}
_NAMES = (None, *ADAPTERS)


def _kwargs(engine):
    return lora_device_kwargs(engine=engine, model=models.checkpoint("tiny"))


def pytest_generate_tests(metafunc):
    if "adapters" in metafunc.fixturenames:
        asked = metafunc.config.getoption("scripted_backend") or ["reference"]
        kwargs = _kwargs(parse_backend(asked[0])[0])
        marks = pytest.mark.scripted(**kwargs)
        metafunc.parametrize("adapters", [pytest.param("two", marks=marks)])


def _start(t, name, *, seed=1, **more):
    return t.start_req(seed=seed, lora_path=name, **{**_PROMPT, **more})


def _alone(t, name, **more):
    r = _start(t, name, **more)
    yield from run_until_finished(r)
    yield from settle(t)
    t.evict_radix()
    yield
    return r.output_ids


@pytest.fixture(scope="module")
def expected():
    """What the reference engine answers with and without each adapter."""
    outputs = []

    def script(t):
        for name in _NAMES:
            r = _start(t, name)
            yield from run_until_finished(r)
            outputs.append(r.output_ids)

    with InProcessSession.start(backend="reference", **_kwargs("reference")) as session:
        session.execute_script(script)
    return outputs


def test_each_adapter_says_what_it_says_on_the_reference_engine(t, adapters, expected):
    assert len({tuple(output) for output in expected}) == len(_NAMES), "they all say the same"
    for name, output in zip(_NAMES, expected, strict=True):
        found = yield from _alone(t, name)
        assert found == output, f"adapter {name!r}"


def test_adapters_in_one_batch_do_not_disturb_each_other(t, adapters, expected):
    started = [_start(t, name) for name in _NAMES]
    yield from advance_to_decode_step(started[0], 2)
    assert len({rid for rid in t.batch.rids}) == len(_NAMES), "they are not in one batch"
    yield from run_until_all_finished(started)
    assert [r.output_ids for r in started] == expected


@pytest.mark.scripted_requires("retract")
def test_a_retraction_keeps_the_adapter(t, adapters, expected):
    started = [_start(t, name) for name in _NAMES]
    yield from advance_to_decode_step(started[-1], 4)
    t.pause_generation(mode="retract")
    yield from run_steps(2)
    assert [r.status for r in started] == ["waiting"] * len(_NAMES)
    t.continue_generation()
    yield from run_until_all_finished(started)
    assert [r.output_ids for r in started] == expected


@pytest.mark.scripted_requires("prefix_cache")
def test_a_prefix_is_shared_with_the_same_adapter_only(t, adapters, expected):
    long = {"prompt_len": 150, "max_new_tokens": 2}
    for name in ("first", "second"):
        r = _start(t, name, **long)
        yield from run_until_finished(r)
        assert r.chunks_done == 3, f"{name!r} took over the KV of another adapter"
    again = _start(t, "first", **long)
    yield from run_until_finished(again)
    assert again.chunks_done == 0
    yield from settle(t)
    require_at_rest(t)


def test_an_adapter_that_there_is_not_is_refused(t, adapters):
    r = _start(t, "third")
    assert r.finish_reason.kind == "refused"
    assert "third" in r.finish_reason.message
    yield from run_steps(2)
    assert t.batch_log == ()
    other = _start(t, "first")
    yield from run_until_finished(other)
    assert other.status == "finished"


_DRAWS = """
import time
from scripted_backend_single import drawn_lora
from scripted_models import checkpoint

print(drawn_lora(model=checkpoint("tiny"), seed=0), flush=True)
time.sleep(60)
"""


def test_a_drawn_adapter_goes_with_its_process_when_a_signal_ends_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _DRAWS],
        stdout=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    ) as process:
        assert process.stdout is not None
        (folder,) = tmp_path.iterdir() if process.stdout.readline() else ()
        assert folder.name.startswith("scripted-lora-")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []

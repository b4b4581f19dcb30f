"""One of two ranks breaks: the test gets to know which, and at once."""

from __future__ import annotations

import time

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_core.errors import EngineDied, LeakDetected
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=60, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.usefixtures("breakable_ranks"),
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
]

tensor_parallel = pytest.mark.scripted(**single_device_kwargs(model_path="tiny", tp_size=2))


def _sabotage(t, what, rank):
    t.start_req(prompt_len=20, seed=1, max_new_tokens=500, ignore_eos=True)
    yield
    t.exhaust("sabotage", what=what, rank=rank)
    for _ in range(20):
        yield
    raise AssertionError("nobody has noticed")


def _pid_of(session, name):
    return next(pid for pid, known in session.pids.items() if known == name)


@tensor_parallel
def test_the_processes_are_told_apart(scripted_session):
    names = set(scripted_session.pids.values())
    assert {"main", "detokenizer", "scheduler tp0", "scheduler tp1"} <= names


@tensor_parallel
def test_a_page_lost_on_the_second_rank_is_found_there(scripted_session):
    with pytest.raises(LeakDetected) as caught:
        scripted_session.execute_script(_sabotage, args=("leak", "tp1"))
    text = str(caught.value)
    assert "[page-orphaned]" in text
    assert f"on rank tp1 (pid {_pid_of(scripted_session, 'scheduler tp1')})" in text
    assert "[ranks-differ]" in text
    assert scripted_session.dirty is not None


@tensor_parallel
def test_an_exception_in_a_batch_of_the_second_rank_is_reported_at_once(scripted_session):
    begun = time.monotonic()
    with pytest.raises(EngineDied) as caught:
        scripted_session.execute_script(_sabotage, args=("fail_at_the_next_batch", "tp1"))
    assert time.monotonic() - begun < 5.0
    text = str(caught.value)
    pid = _pid_of(scripted_session, "scheduler tp1")
    assert f"rank scheduler tp1 (pid {pid}) broke: RuntimeError: a kernel of this rank" in text
    assert "in run_batch" in text, "its traceback"
    assert "log tail:" in text

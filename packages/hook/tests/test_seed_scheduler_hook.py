"""``ScriptedSchedulerHook``: how it advances a generator, and what it does on other ranks."""

from __future__ import annotations

import pytest
from scripted_core import ScriptedContext
from scripted_core.ops import Evict
from scripted_core.testing import FakeBatch, FakeEngine
from scripted_core.views import ForwardMode, ScriptedBatchRecord
from scripted_core.wire.address import create_address
from scripted_hook import ScriptedSchedulerHook, maybe_init_scripted_scheduler_hook
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def _yielding_gen(t):
    yield
    yield


def _empty_gen(t):
    return
    yield


def _raising_gen(t):
    yield
    raise ValueError("planned")


@pytest.mark.parametrize(
    ("script", "steps", "error"),
    [(_yielding_gen, 2, None), (_empty_gen, 0, None), (_raising_gen, 1, ValueError)],
)
def test_an_advance_ends_in_a_step_a_success_or_an_error(
    make_engine, run_script, script, steps, error
):
    outcome = run_script(make_engine(), script)
    assert outcome.steps == steps
    assert type(outcome.error) is (type(None) if error is None else error)


def test_what_a_script_yields_or_returns_means_nothing(make_engine, run_script):
    def script(t):
        got = yield "a value"
        assert got is None
        return "another"

    assert run_script(make_engine(), script).error is None


def test_a_script_is_advanced_once_for_each_iteration_also_when_it_delegates(
    make_engine, run_script
):
    engine = make_engine()
    seen = []

    def inner():
        for _ in range(3):
            seen.append(engine.iterations)
            yield

    def script(t):
        yield from inner()
        seen.append(engine.iterations)

    assert run_script(engine, script).error is None
    assert seen == list(range(seen[0], seen[0] + 4))


def test_a_script_holds_the_engines_own_scheduler(make_engine, run_script):
    engine = make_engine()
    seen = []

    def script(t):
        seen.append((type(t), t.scheduler))
        yield

    assert run_script(engine, script).error is None
    assert seen == [(ScriptedContext, engine.scheduler)]


def test_a_batch_record_takes_five_positions_and_is_frozen():
    record = ScriptedBatchRecord(3, ForwardMode.EXTEND, ("a", "b"), ("a",), "a")
    assert (record.forward_iter, record.mode, record.rids) == (3, "extend", ("a", "b"))
    assert (record.extend_rids, record.chunked_rid) == (("a",), "a")
    with pytest.raises(AttributeError):
        record.mode = ForwardMode.DECODE


# -- ranks that are not the driver -----------------------------------------------------------------


@pytest.fixture
def other_rank(plugins, monkeypatch):
    """An engine on another rank, attached as in a session, where the driver has the wire."""
    # It would keep a file open for the life of this process.
    monkeypatch.setattr("scripted_hook.attach.register_stacks", lambda address: None)
    address = create_address()
    engine = FakeEngine()
    engine.is_driver = False
    hook = maybe_init_scripted_scheduler_hook(
        engine.scheduler, adapter=engine, environ=address.env(engine="fake")
    )
    assert isinstance(hook, ScriptedSchedulerHook)
    yield engine.connect(hook)
    engine.close()
    address.remove()


def test_no_script_ever_runs_on_another_rank(other_rank):
    for _ in range(3):
        other_rank.iterate()
    assert other_rank.hook.phase == "free"
    assert other_rank.hook.progress == 0
    assert other_rank.hook.pollables() == ()


def test_memory_operations_are_applied_on_every_rank(other_rank):
    free = other_rank.kv_pool.available
    pages = other_rank.kv_pool.allocate(1)
    other_rank.prefix_tree.insert([1, 2, 3, 4], pages)
    assert other_rank.kv_pool.available == free - 1
    other_rank.hook.apply_memory_op(Evict())
    assert other_rank.kv_pool.available == free
    assert list(other_rank.prefix_tree.nodes()) == []


def test_batches_of_another_rank_are_not_logged(other_rank):
    other_rank.hook.on_run_batch(FakeBatch(mode=ForwardMode.DECODE, rids=("a",)))
    assert list(other_rank.hook.batch_log) == []

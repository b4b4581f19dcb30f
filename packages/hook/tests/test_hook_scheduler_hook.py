from __future__ import annotations

import pytest
from scripted_core.errors import EngineDirty, ExhaustError, LeakDetected
from scripted_core.ops import Abort, AbortAll, Continue, Flush, Pause, ReleaseHeld
from scripted_core.requests import ReqSpec
from scripted_core.testing import FakeBatch, FakeEngine, expected_output
from scripted_core.views import FinishKind, FinishReason, ForwardMode, PauseMode
from scripted_registry import ExhausterSpec, Violation, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

SCRIPTED_API = 1


def finish(handle, *, max_steps=200):
    for _ in range(max_steps):
        if handle.finished:
            return
        yield
    raise AssertionError(f"{handle} did not finish in {max_steps} steps")


# -- advancing the generator -------------------------------------------------------------------


def test_each_yield_is_one_iteration(make_engine, run_script):
    engine = make_engine()
    seen = []

    def script(t):
        for _ in range(3):
            seen.append((t.step_index, engine.iterations))
            yield

    outcome = run_script(engine, script)
    assert outcome.error is None
    assert outcome.steps == 3
    assert [step for step, _ in seen] == [0, 1, 2]
    first = seen[0][1]
    assert [iteration for _, iteration in seen] == [first, first + 1, first + 2]


def test_the_script_begins_in_the_first_iteration_when_the_engine_is_clean(make_engine, run_script):
    engine = make_engine()
    run_script(engine, lambda_free_script)
    assert engine.iterations == 1


def lambda_free_script(t):
    return
    yield


def test_an_empty_generator_succeeds(make_engine, run_script):
    outcome = run_script(make_engine(), lambda_free_script)
    assert outcome.error is None
    assert outcome.steps == 0
    assert outcome.traceback_text == ""


@pytest.mark.parametrize(("returned", "named"), [(None, "NoneType"), ([1], "list"), (3, "int")])
def test_a_script_that_is_no_generator_is_a_type_error_that_names_the_type(
    make_engine, run_script, returned, named
):
    def plain(t):
        return returned

    error = run_script(make_engine(), plain).error
    assert type(error) is TypeError
    assert "plain" in str(error)
    assert named in str(error)
    assert "yield" in str(error)


def test_a_raising_generator_ends_with_its_error_and_a_traceback_from_its_own_frame_on(
    make_engine, run_script
):
    engine = make_engine()

    def script(t):
        yield
        inner()

    def inner():
        raise ZeroDivisionError("at step one")

    outcome = run_script(engine, script)
    assert type(outcome.error) is ZeroDivisionError
    assert outcome.steps == 1
    assert "in script" in outcome.traceback_text
    assert "in inner" in outcome.traceback_text
    assert outcome.traceback_text.count("File ") == 2
    assert "step 1" in outcome.last_state
    assert run_script(engine, lambda_free_script).error is None


def test_an_error_before_the_first_yield_stands_alone(make_engine, run_script):
    def script(t):
        raise ValueError("at once")
        yield

    outcome = run_script(make_engine(), script)
    assert type(outcome.error) is ValueError
    assert "StopIteration" not in outcome.traceback_text
    assert outcome.error.__context__ is None


def test_an_error_at_the_call_itself_is_the_scripts(make_engine, run_script):
    def script(t, missing):
        yield

    error = run_script(make_engine(), script).error
    assert type(error) is TypeError
    assert "missing" in str(error)


def test_arguments_reach_the_script(make_engine, run_script):
    got = []

    def script(t, a, *, b):
        got.append((a, b))
        yield

    assert run_script(make_engine(), script, 1, kwargs={"b": 2}).error is None
    assert got == [(1, 2)]


def test_keyboard_interrupt_is_not_the_scripts_and_goes_through(make_engine):
    engine = make_engine()

    def script(t):
        yield
        raise KeyboardInterrupt

    engine.hook.start_job(name="script", function=script)
    engine.iterate()
    with pytest.raises(KeyboardInterrupt):
        engine.iterate()
    assert engine.hook.outcome is None
    engine.hook.abandon()
    assert engine.hook.phase == "free"


def test_abandon_closes_the_script_and_frees_the_engine(make_engine):
    engine = make_engine()
    closed = []

    def script(t):
        t.pause_generation(mode="in_place")
        try:
            while True:
                yield
        finally:
            closed.append(True)

    engine.hook.start_job(name="script", function=script)
    engine.iterate()
    engine.iterate()
    assert engine.is_paused
    engine.hook.abandon()
    engine.iterate()
    assert closed == [True]
    assert not engine.is_paused
    assert engine.hook.phase == "free"


def test_progress_grows_with_every_iteration_of_a_job_and_not_between(make_engine, run_script):
    engine = make_engine()
    engine.iterate()
    assert engine.hook.progress == 0

    def script(t):
        yield
        yield

    run_script(engine, script)
    ended = engine.hook.progress
    assert ended == 3
    engine.iterate()
    assert engine.hook.progress == ended


# -- the batch log -----------------------------------------------------------------------------


def test_on_run_batch_records_steps_modes_and_rids(make_engine, run_script):
    engine = make_engine(chunk_size=16)
    log = []

    def script(t):
        handle = t.start_req(prompt_len=40, max_new_tokens=2, rid="a")
        yield from finish(handle)
        log.extend(t.batch_log)
        assert t.last_batch_forward_mode is ForwardMode.DECODE

    assert run_script(engine, script).error is None
    assert [record.mode for record in log] == ["extend", "extend", "extend", "decode"]
    assert [record.forward_iter for record in log] == [1, 2, 3, 4]
    assert [record.chunked_rid for record in log] == ["a", "a", None, None]
    assert [record.chunked_rids for record in log] == [("a",), ("a",), (), ()]
    assert [record.extend_rids for record in log] == [("a",)] * 3 + [()]
    assert all(record.rids == ("a",) for record in log)
    assert [record.step for record in log] == [1, 2, 3, 4]


def test_a_batch_outside_a_script_is_not_recorded(make_engine):
    engine = make_engine()
    engine.submit_foreign(ReqSpec(rid="foreign", input_ids=(1, 2, 3)))
    engine.iterate()
    engine.hook.on_run_batch(FakeBatch(ForwardMode.DECODE, ("x",)))
    assert list(engine.hook.batch_log) == []


def test_chunks_done_counts_the_completing_batch_and_is_zero_for_a_single_one(
    make_engine, run_script
):
    engine = make_engine(chunk_size=16)
    counts = {}

    def script(t):
        long = t.start_req(prompt_len=40, rid="long", seed=1)
        seen = []
        while not long.finished:
            seen.append(long.chunks_done)
            yield
        short = t.start_req(prompt_len=16, rid="short", seed=2)
        yield from finish(short)
        counts.update(long=long.chunks_done, short=short.chunks_done, seen=sorted(set(seen)))

    assert run_script(engine, script).error is None
    assert counts == {"long": 3, "short": 0, "seen": [0, 1, 2, 3]}


def test_parks_count_iterations_in_which_the_chunked_request_did_not_run(make_engine, run_script):
    engine = make_engine(chunk_size=16)

    def script(t):
        handle = t.start_req(prompt_len=40, rid="a")
        yield
        assert handle.is_chunking
        assert handle.chunked_parks == 0
        t.pause_generation(mode="in_place")
        for _ in range(4):
            yield
        assert handle.is_chunking
        assert handle.chunked_parks == 4
        assert handle.chunks_done == 1
        t.continue_generation()
        yield from finish(handle)
        assert handle.chunked_parks == 4
        assert handle.chunks_done == 3

    outcome = run_script(engine, script)
    assert outcome.error is None, outcome.traceback_text


# -- ends of requests --------------------------------------------------------------------------


def test_the_first_report_of_an_end_wins(make_engine, run_script):
    engine = make_engine()

    def script(t):
        handle = t.start_req(prompt_len=4, max_new_tokens=1, rid="a", seed=3)
        yield from finish(handle)
        first = handle.output_ids
        engine.hook.finished("a", FinishReason(FinishKind.ABORT, "late"), ())
        assert handle.finish_reason.kind is FinishKind.LENGTH
        assert handle.output_ids == first
        assert handle.status == "finished"
        yield

    outcome = run_script(engine, script)
    assert outcome.error is None, outcome.traceback_text
    assert sum(line.startswith("finish") for line in engine.hook.event_lines()) == 1


def test_a_refused_request_is_finished_with_the_reason_and_never_enters(make_engine, run_script):
    engine = make_engine(context_len=32)

    def script(t):
        handle = t.start_req(prompt_len=100, rid="a")
        assert handle.finished
        assert handle.finish_reason.kind is FinishKind.REFUSED
        assert "context" in handle.finish_reason.message
        assert handle.status == "aborted"
        assert handle.req is None
        yield
        assert t.batch is None

    outcome = run_script(engine, script)
    assert outcome.error is None, outcome.traceback_text


def test_a_client_that_differs_from_the_output_is_a_leak(make_engine, run_script):
    def script(t):
        handle = t.start_req(prompt_len=4, max_new_tokens=3, rid="a", seed=1)
        yield
        handle.client.token_ids[0] += 1
        yield from finish(handle)

    error = run_script(make_engine(), script).error
    assert isinstance(error, LeakDetected)
    assert "client-differs" in str(error)
    assert "a" in str(error)


# -- invariants --------------------------------------------------------------------------------


def test_a_lost_page_names_step_and_page(make_engine, run_script):
    engine = make_engine()

    def script(t):
        yield
        engine.kv_pool.allocate(1)
        yield
        raise AssertionError("the step after the leak was reached")

    error = run_script(engine, script).error
    assert isinstance(error, LeakDetected)
    assert "page-orphaned" in str(error)
    assert "step 2" in str(error)
    assert ": 0" in str(error)


def test_a_double_free_names_both_owners_and_the_last_operations(make_engine, run_script):
    engine = make_engine()

    def script(t):
        handle = t.start_req(prompt_len=9, rid="victim", seed=1)
        yield
        t.pause_generation(mode="in_place")
        yield
        engine.kv_pool.free(handle.req.pages[:1])
        yield

    error = run_script(engine, script).error
    assert isinstance(error, LeakDetected)
    text = str(error)
    assert "page-owned-twice" in text
    assert "request victim" in text
    assert "free" in text
    assert "Pause" in text
    assert "step 3" in text


def test_a_rewritten_output_is_found(make_engine, run_script):
    def script(t):
        handle = t.start_req(prompt_len=4, max_new_tokens=20, rid="a", seed=1)
        for _ in range(4):
            yield
        handle.req.output_ids[-1] += 1
        yield

    error = run_script(make_engine(), script).error
    assert isinstance(error, LeakDetected)
    assert "output-rewritten" in str(error)


def test_no_progress_of_admissible_work_is_found(make_engine, run_script):
    engine = make_engine()

    def script(t):
        t.start_req(prompt_len=4, max_new_tokens=100, rid="a")
        yield
        engine.scheduler.waiting_queue.append(engine.scheduler.running.pop())
        engine.scheduler.admits = False
        for _ in range(100):
            yield
        raise AssertionError("64 idle iterations went by unnoticed")

    outcome = run_script(engine, script)
    assert isinstance(outcome.error, LeakDetected)
    assert "no-progress" in str(outcome.error)
    assert 64 <= outcome.steps <= 67


def test_a_pause_is_not_a_lack_of_progress(make_engine, run_script):
    def script(t):
        t.start_req(prompt_len=4, max_new_tokens=100, rid="a")
        yield
        t.pause_generation(mode="in_place")
        for _ in range(100):
            yield

    outcome = run_script(make_engine(), script)
    assert outcome.error is None, outcome.traceback_text


def test_invariants_can_be_switched_off(make_engine, run_script):
    engine = make_engine()

    def script(t):
        engine.kv_pool.allocate(1)
        yield
        yield

    assert run_script(engine, script, check_invariants=False).error is None


def test_a_script_cannot_swallow_a_violation(make_engine, run_script):
    engine = make_engine()

    def script(t):
        lost = engine.kv_pool.allocate(1)
        try:
            yield
        except AssertionError:
            engine.kv_pool.free(lost)

    assert isinstance(run_script(engine, script).error, LeakDetected)


# -- plugins -----------------------------------------------------------------------------------


class _Watcher:
    def __init__(self):
        self.steps, self.records, self.resets = [], [], []
        self.violations = []

    @hookimpl
    def scripted_on_step(self, step):
        self.steps.append(step)

    @hookimpl
    def scripted_on_batch(self, record):
        self.records.append(record)

    @hookimpl
    def scripted_on_reset(self, context):
        self.resets.append(context.is_fully_idle)

    @hookimpl
    def scripted_check_invariants(self, audit):
        return self.violations


def test_plugins_see_steps_batches_and_resets(make_engine, run_script, plugins):
    watcher = _Watcher()
    plugins.register(watcher)

    def script(t):
        yield from finish(t.start_req(prompt_len=4, max_new_tokens=2))

    outcome = run_script(make_engine(), script)
    assert outcome.error is None
    assert watcher.steps == [1, 2]
    assert [record.mode for record in watcher.records] == ["extend", "decode"]
    assert watcher.resets == [True]


def test_a_plugins_violation_fails_the_script(make_engine, run_script, plugins):
    watcher = _Watcher()
    plugins.register(watcher)

    def script(t):
        yield
        watcher.violations = [Violation(code="mine", message="odd page", subject="page 3")]
        yield
        yield

    error = run_script(make_engine(), script).error
    assert isinstance(error, LeakDetected)
    assert "mine" in str(error)
    assert "odd page" in str(error)


# -- memory operations -------------------------------------------------------------------------


class _Exhausters:
    """Holds pages; ``fail_with`` makes the application of an operation fail."""

    fail_with: Exception | None = None

    @hookimpl
    def scripted_register_exhausters(self):
        return [ExhausterSpec(name="kv", summary="pages", factory=self.make)]

    def make(self, scheduler):
        from scripted_core.ports import port_of

        outer, pool = self, port_of(scheduler).kv_pools["full"]

        class Exhauster:
            holds: list = []  # noqa: RUF012

            def exhaust(self, *, leave_pages, pool=pool, evictable="count"):
                if outer.fail_with is not None:
                    raise outer.fail_with
                target = engine_pool
                self.holds = [*self.holds, target.hold(target.available - leave_pages)]

            def release(self):
                for hold in self.holds:
                    engine_pool.release(hold)
                self.holds = []

        engine_pool = pool
        return Exhauster()


def test_an_exhausted_pool_is_held_declared_and_given_back_at_the_end(
    make_engine, run_script, plugins
):
    plugins.register(_Exhausters())
    engine = make_engine(num_pages=20)

    def script(t):
        t.exhaust_kv(leave_pages=3)
        assert t.engine_stats()["kv_pool_free"] == 20
        yield
        assert t.engine_stats()["kv_pool_free"] == 3
        assert engine.declared == ({"full": 17}, 0)

    outcome = run_script(engine, script)
    assert outcome.error is None, outcome.traceback_text
    engine.iterate()
    assert engine.kv_pool.available == 20
    assert engine.declared == ({"full": 0}, 0)


def test_a_memory_operation_that_fails_when_applied_reaches_the_script(
    make_engine, run_script, plugins
):
    exhausters = _Exhausters()
    exhausters.fail_with = ExhaustError("nothing left", hint="ask for less")
    plugins.register(exhausters)
    engine = make_engine()

    def script(t):
        t.exhaust_kv(leave_pages=3)
        yield
        raise AssertionError("the failure did not arrive")

    outcome = run_script(engine, script)
    assert outcome.error is exhausters.fail_with
    assert "in script" in outcome.traceback_text


def test_a_script_may_expect_the_failure_of_a_memory_operation(make_engine, run_script, plugins):
    exhausters = _Exhausters()
    exhausters.fail_with = ExhaustError("nothing left")
    plugins.register(exhausters)
    steps = []

    def script(t):
        t.exhaust_kv(leave_pages=3)
        with pytest.raises(ExhaustError, match="nothing left"):
            yield
        steps.append(t.step_index)
        yield
        steps.append(t.step_index)

    outcome = run_script(make_engine(), script)
    assert outcome.error is None, outcome.traceback_text
    assert steps == [1, 2]


def test_unknown_parameters_of_an_exhauster_are_named(make_engine, run_script, plugins):
    plugins.register(_Exhausters())

    def script(t):
        t.exhaust("kv", leave_rows=1)
        yield
        yield

    error = run_script(make_engine(), script).error
    assert "leave_rows" in str(error)


# -- reset -------------------------------------------------------------------------------------


def test_a_reset_continues_releases_aborts_and_flushes_in_this_order(
    make_engine, run_script, plugins, monkeypatch
):
    plugins.register(_Exhausters())
    engine = make_engine()

    def messy(t):
        t.start_req(prompt_len=8, max_new_tokens=1, rid="done", seed=1)
        t.start_req(prompt_len=8, max_new_tokens=100, rid="runs", seed=2)
        yield
        yield
        t.exhaust_kv(leave_pages=3)
        yield
        t.pause_generation(mode="in_place")
        yield

    assert run_script(engine, messy).error is None
    posted = []
    control = engine.control
    monkeypatch.setattr(engine, "control", lambda op: (posted.append(op), control(op))[1])
    engine.control(Pause(PauseMode.IN_PLACE))
    engine.iterate()
    posted.clear()

    def clean(t):
        assert t.is_fully_idle
        assert not t.engine.is_paused
        assert t.queues.waiting == t.queues.running == ()
        assert t.get_all_node_hit_counts() == {}
        stats = t.engine_stats()
        assert stats["kv_pool_free"] == stats["kv_pool_total"]
        assert t.batch_log == ()
        assert t.status("runs") == "unknown"
        yield

    outcome = run_script(engine, clean)
    assert outcome.error is None, outcome.traceback_text
    kinds = [type(op) for op in posted]
    assert kinds == [Continue, AbortAll, Flush]


def test_everything_held_is_released_when_a_script_ends(make_engine, run_script, plugins):
    plugins.register(_Exhausters())
    engine = make_engine()
    posted = []
    control = engine.control

    def script(t):
        t.exhaust_kv(leave_pages=3)
        yield
        engine.control = lambda op: (posted.append(type(op)), control(op))[1]
        raise ValueError("leaves it held")

    assert isinstance(run_script(engine, script).error, ValueError)
    assert posted == [ReleaseHeld]


def test_a_reset_that_does_not_come_to_rest_is_bounded(make_engine, run_script):
    engine = make_engine()
    engine.is_fully_idle = lambda: False
    error = run_script(engine, lambda_free_script).error
    assert isinstance(error, EngineDirty)
    assert "400" in str(error)


def test_a_reset_waits_for_the_quiet_steps_of_the_engine(make_engine, run_script):
    engine = make_engine(quiesce_steps=3)
    run_script(engine, lambda_free_script)
    assert engine.iterations >= 4


def test_warmup_is_driven_once(make_engine, run_script):
    engine = make_engine()
    run_script(engine, lambda_free_script)
    run_script(engine, lambda_free_script)
    assert engine.warmups == 1


def test_a_foreign_request_waits_for_the_end_of_the_script(make_engine, run_script):
    engine = make_engine()
    clients = []

    def script(t):
        clients.append(engine.submit_foreign(ReqSpec(rid="foreign", input_ids=(5, 6, 7))))
        for _ in range(5):
            yield
            assert t.status("foreign") == "unknown"

    outcome = run_script(engine, script)
    assert outcome.error is None, outcome.traceback_text
    for _ in range(20):
        engine.iterate()
    assert clients[0].token_ids == expected_output((5, 6, 7), max_new_tokens=8)


# -- determinism -------------------------------------------------------------------------------


def _busy(t):
    first = t.start_req(prompt_len=40, seed=1, max_new_tokens=6)
    second = t.start_req(prompt_len=10, seed=2, max_new_tokens=6)
    yield
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    t.abort(second)
    yield from finish(first)


def test_the_same_script_has_the_same_digest_and_another_has_another(make_engine, run_script):
    digests = []
    for seed in (0, 0, 1):
        engine = make_engine()
        outcome = run_script(engine, _busy, seed=seed)
        assert outcome.error is None, outcome.traceback_text
        digests.append(engine.hook.event_digest())
    assert digests[0] == digests[1] != digests[2]


def test_a_second_run_on_the_same_engine_has_the_same_digest(make_engine, run_script):
    engine = make_engine()
    run_script(engine, _busy)
    first = engine.hook.event_digest()
    run_script(engine, _busy)
    assert engine.hook.event_digest() == first


def test_an_abort_op_names_its_rid_in_the_events(make_engine, run_script):
    engine: FakeEngine = make_engine()
    run_script(engine, _busy)
    assert any(repr(Abort(rid="")).split("(")[0] in line for line in engine.hook.event_lines())

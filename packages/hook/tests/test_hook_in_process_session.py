from __future__ import annotations

import gc
import threading
import time
import unittest

import pytest
from scripted_core.capabilities import Capability
from scripted_core.errors import (
    CapabilityMissing,
    ConfigError,
    EngineDirty,
    ExhaustError,
    PluginContractError,
    PluginNotFound,
    ReplyTimeout,
    ScriptFailed,
    ScriptStalled,
)
from scripted_core.sessions import InProcessSession
from scripted_core.testing import FakeEngine, expected_output
from scripted_hook import ScriptedSchedulerHook
from scripted_registry import EngineMode, EngineSpec, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="unit", runner_config="cpu")

SCRIPTED_API = 1


class FakePlugin:
    """An engine called ``fake`` in this process."""

    def __init__(self):
        self.engines = []
        self.events = []

    @hookimpl
    def scripted_register_engines(self):
        return [EngineSpec(name="fake", summary="a fake", modes=(EngineMode.IN_PROCESS,))]

    @hookimpl
    def scripted_make_engine(self, config):
        if config.engine != "fake":
            return None
        engine = FakeEngine(**config.kwargs)
        hook = ScriptedSchedulerHook(
            scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine
        )
        self.engines.append(engine)
        return engine.connect(hook)

    @hookimpl
    def scripted_engine_before_start(self, config):
        self.events.append("before_start")

    @hookimpl
    def scripted_engine_started(self, config, ready):
        self.events.append("started")

    @hookimpl
    def scripted_engine_stopped(self, config):
        self.events.append("stopped")


@pytest.fixture
def plugin(plugins):
    one = FakePlugin()
    plugins.register(one, name="fake-plugin")
    return one


@pytest.fixture
def start(plugin):
    started = []

    def start(**kwargs):
        session = InProcessSession.start(backend="fake", **kwargs)
        started.append(session)
        return session

    yield start
    for session in started:
        session.shutdown()
    assert [t.name for t in threading.enumerate() if t.name == "scripted-stall"] == []


def finish(*handles):
    for _ in range(300):
        if all(handle.finished for handle in handles):
            return
        yield
    raise AssertionError("not finished")


def noop(t):
    yield


def test_a_session_announces_itself_and_stops_once(start, plugin):
    session = start()
    session.execute_script(noop)
    session.shutdown()
    session.shutdown()
    assert plugin.events == ["before_start", "started", "stopped"]
    with pytest.raises(EngineDirty, match="shut down"):
        session.execute_script(noop)


def test_it_is_a_context_manager(plugin):
    with InProcessSession.start(backend="fake") as session:
        session.execute_script(noop)
    assert plugin.events[-1] == "stopped"


def test_an_unknown_engine_is_named(plugin):
    with pytest.raises(PluginNotFound, match="fakr"):
        InProcessSession.start(backend="fakr")


def test_an_engine_that_nobody_makes_is_an_error(plugins):
    class Registers:
        @hookimpl
        def scripted_register_engines(self):
            return [EngineSpec(name="empty", summary="none", modes=(EngineMode.IN_PROCESS,))]

    plugins.register(Registers(), name="registers")
    with pytest.raises(PluginContractError, match="no plugin builds it"):
        InProcessSession.start(backend="empty")


def test_the_output_is_the_expected_one_and_the_client_has_it(start):
    def script(t):
        handles = [t.start_req(prompt_len=n, seed=n, max_new_tokens=6) for n in (5, 40, 17)]
        yield from finish(*handles)
        for n, handle in zip((5, 40, 17), handles, strict=True):
            prompt = t.hook.ledger.specs[handle.rid].input_ids
            assert len(prompt) == n
            assert handle.output_ids == expected_output(prompt, max_new_tokens=6)
            assert handle.client.token_ids == handle.output_ids
            assert handle.finish_reason.kind == "length"

    start().execute_script(script)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
@pytest.mark.parametrize("stage", [1, 2, 4, 6])
def test_a_pause_changes_no_output(start, mode, stage):
    def script(t):
        handle = t.start_req(prompt_len=40, seed=1, max_new_tokens=6)
        for _ in range(stage):
            yield
        t.pause_generation(mode=mode)
        yield
        before = handle.output_ids
        assert handle.status == ("waiting" if mode == "retract" else "running")
        for _ in range(5):
            yield
        assert handle.output_ids == before
        t.continue_generation()
        yield from finish(handle)
        prompt = t.hook.ledger.specs[handle.rid].input_ids
        assert handle.output_ids == expected_output(prompt, max_new_tokens=6)

    start(chunk_size=16).execute_script(script)


def test_requests_that_do_not_fit_together_retract_and_still_end_right(start):
    def script(t):
        handles = [t.start_req(prompt_len=12, seed=n, max_new_tokens=30) for n in range(3)]
        yield from finish(*handles)
        for handle in handles:
            prompt = t.hook.ledger.specs[handle.rid].input_ids
            assert handle.output_ids == expected_output(prompt, max_new_tokens=30)

    start(num_pages=20).execute_script(script)


def test_abort_ends_exactly_its_request(start):
    def script(t):
        first = t.start_req(prompt_len=8, seed=1, max_new_tokens=20, rid="one")
        second = t.start_req(prompt_len=8, seed=2, max_new_tokens=20, rid="two")
        yield
        receipt = t.abort(first)
        assert receipt.ok is None
        yield
        assert receipt.ok
        assert first.status == "aborted"
        assert first.kv_pages == 0
        assert second.status == "running"
        yield from finish(second)
        assert second.finish_reason.kind == "length"

    start().execute_script(script)


def test_an_abort_while_paused_in_place_takes_effect_at_continue(start):
    def script(t):
        handle = t.start_req(prompt_len=8, max_new_tokens=20)
        yield
        t.pause_generation(mode="in_place")
        t.abort(handle)
        yield
        yield
        assert not handle.finished
        t.continue_generation()
        yield
        assert handle.status == "aborted"

    start().execute_script(script)


def test_flush_is_refused_while_busy_and_done_when_idle(start):
    def script(t):
        handle = t.start_req(prompt_len=8, seed=1, max_new_tokens=3)
        yield
        busy = t.flush_cache()
        yield
        assert busy.ok is False
        yield from finish(handle)
        assert t.get_all_node_hit_counts()
        idle = t.flush_cache()
        yield
        assert idle.ok is True
        assert t.get_all_node_hit_counts() == {}

    start().execute_script(script)


def test_a_shared_prefix_is_shared_locked_and_let_go(start):
    def script(t):
        first = t.start_req(input_ids=list(range(1, 17)), max_new_tokens=2)
        yield from finish(first)
        second = t.start_req(input_ids=[*range(1, 13), 99, 98], max_new_tokens=4)
        yield
        assert second.lock_refs == 1
        assert sorted(t.get_all_node_hit_counts().values()) == [0, 1, 1, 1]
        assert sorted(t.get_all_node_lock_refs().values()) == [0, 1, 1, 1]
        yield from finish(second)
        assert set(t.get_all_node_lock_refs().values()) == {0}

    start().execute_script(script)


def test_evict_radix_drops_a_subtree(start):
    def script(t):
        for base in (0, 100):
            handle = t.start_req(input_ids=[base + n for n in range(1, 9)], max_new_tokens=1)
            yield from finish(handle)
        assert len(t.get_all_node_hit_counts()) == 4
        t.evict_radix(prefix_tokens=[1, 2, 3, 4])
        yield
        assert {node.tokens[0] for node in t.get_all_node_hit_counts()} == {101, 105}
        t.evict_radix()
        yield
        assert t.get_all_node_hit_counts() == {}

    start().execute_script(script)


# -- failures ----------------------------------------------------------------------------------


def test_an_assertion_is_raised_as_it_is_and_the_session_stays_usable(start):
    session = start()

    def script(t):
        yield
        assert t.step_index == 5

    with pytest.raises(AssertionError) as caught:
        session.execute_script(script)
    assert type(caught.value) is AssertionError
    assert any(entry.name == "script" for entry in caught.traceback)
    assert session.dirty is None
    session.execute_script(noop)


def test_any_other_exception_is_a_failed_script_with_the_last_state(start):
    def script(t):
        t.start_req(prompt_len=8, rid="mine")
        yield
        {}["key"]

    with pytest.raises(ScriptFailed, match="KeyError") as caught:
        start().execute_script(script)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "in script" in caught.value.remote_traceback
    assert "mine" in caught.value.last_state
    assert "mine" in str(caught.value)


def test_outcomes_of_pytest_and_unittest_mean_what_they_mean(start):
    session = start()

    def skips(t):
        yield
        pytest.skip("not today")

    def unittest_skips(t):
        yield
        raise unittest.SkipTest("nor tomorrow")

    def fails(t):
        yield
        pytest.fail("on purpose")

    def xfails(t):
        yield
        pytest.xfail("known")

    def lacks(t):
        yield
        t.require(Capability.LORA, "this")

    with pytest.raises(pytest.skip.Exception, match="not today"):
        session.execute_script(skips)
    with pytest.raises(pytest.skip.Exception, match="nor tomorrow"):
        session.execute_script(unittest_skips)
    with pytest.raises(pytest.fail.Exception, match="on purpose"):
        session.execute_script(fails)
    with pytest.raises(pytest.xfail.Exception, match="known"):
        session.execute_script(xfails)
    with pytest.raises(pytest.skip.Exception, match="lora") as caught:
        session.execute_script(lacks)
    assert isinstance(caught.value.__cause__, CapabilityMissing)
    session.execute_script(noop)


def test_a_non_generator_fails_with_its_type(start):
    with pytest.raises(ScriptFailed, match=r"TypeError: .*NoneType"):
        start().execute_script(lambda t: None)


def test_any_callable_with_any_argument_is_a_script(start):
    got = []
    marker = object()
    start().execute_script(lambda t, x: (got.append(x) for _ in range(1)), args=[marker])
    assert got == [marker]


def test_an_endless_script_ends_at_its_timeout(start):
    session = start()

    def script(t):
        while True:
            yield

    begun = time.monotonic()
    with pytest.raises(ReplyTimeout, match=r"0\.1 s"):
        session.execute_script(script, timeout_s=0.1)
    assert time.monotonic() - begun < 3
    assert session.dirty
    with pytest.raises(EngineDirty, match="ReplyTimeout"):
        session.execute_script(noop)


def test_a_script_that_never_yields_is_stalled_and_shows_its_stack(start):
    session = start(stall_timeout_s=0.2)

    def never_yields(t):
        yield
        while True:
            time.sleep(0.01)

    with pytest.raises(ScriptStalled) as caught:
        session.execute_script(never_yields)
    assert "never_yields" in str(caught.value)
    assert "last state" in str(caught.value)
    assert "step 1" in str(caught.value)
    assert caught.value.hint
    with pytest.raises(EngineDirty, match="ScriptStalled"):
        session.execute_script(noop)


def test_an_interrupt_that_meets_the_collector_comes_again_at_once(start):
    session = start(stall_timeout_s=1)
    reached = []

    def watches(phase, info):
        if phase == "stop":
            time.sleep(2.2)  # the interrupt comes in here, where it can only be printed

    def collects(t):
        yield
        gc.callbacks.append(watches)
        gc.collect()
        gc.callbacks.remove(watches)
        for _ in range(70):  # over before another second is
            time.sleep(0.01)
        reached.append(True)

    try:
        with pytest.raises(ScriptStalled):
            session.execute_script(collects)
    finally:
        if watches in gc.callbacks:
            gc.callbacks.remove(watches)
    assert not reached


def test_a_stalled_script_cannot_swallow_its_end(start):
    session = start(stall_timeout_s=0.1)
    swallowed = []

    def stubborn(t):
        yield
        while True:
            try:
                time.sleep(0.01)
            except Exception as error:
                swallowed.append(error)
            except BaseException as error:
                if len(swallowed) == 1:
                    raise
                swallowed.append(error)

    with pytest.raises(ScriptStalled, match="stubborn"):
        session.execute_script(stubborn)
    assert len(swallowed) == 1


def test_a_stall_in_a_worker_thread_is_the_same_error(start):
    session = start(stall_timeout_s=0.2)
    caught = []

    def never_yields(t):
        yield
        while True:
            time.sleep(0.01)

    def work():
        try:
            session.execute_script(never_yields)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert type(caught[0]) is ScriptStalled
    assert "never_yields" in str(caught[0])
    assert "last state" in str(caught[0])


def test_ctrl_c_goes_through_and_leaves_the_session_dirty(start):
    session = start()

    def script(t):
        yield
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.execute_script(script)
    with pytest.raises(EngineDirty, match="KeyboardInterrupt"):
        session.execute_script(noop)


def test_a_script_that_ignores_its_end_does_not_hide_the_error(start):
    session = start()
    ends = []

    def script(t):
        while len(ends) < 1:
            try:
                yield
            except GeneratorExit:
                ends.append(t.step_index)
        yield

    with pytest.raises(ReplyTimeout):
        session.execute_script(script, timeout_s=0.05)
    assert session.dirty


def test_a_failed_engine_iteration_is_raised_and_leaves_the_session_dirty(start, plugin):
    session = start()

    def broken():
        raise ValueError("in the engine's own loop")

    def script(t):
        yield
        plugin.engines[0].scheduler.run_batch = broken
        yield
        yield

    with pytest.raises(ValueError, match="own loop"):
        session.execute_script(script)
    assert "ValueError" in session.dirty


# -- arguments of start_req and of memory calls --------------------------------------------------


def raises(error, match, call):
    def script(t):
        with pytest.raises(error, match=match) as caught:
            call(t)
        assert caught.value.hint or error is CapabilityMissing
        assert t.hook.ledger.specs.keys() <= {"used", "abc"}
        yield

    return script


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"prompt_len": 0}, "prompt_len=0"),
        ({"prompt_len": -3}, "prompt_len=-3"),
        ({"prompt_len": 10**30}, f"prompt_len={10**30} is above"),
        ({"prompt_len": 3, "max_new_tokens": 10**30}, "above"),
        ({"prompt_len": 3, "priority": 10**30}, f"priority={10**30} is above"),
        ({"prompt_len": 3, "priority": -(10**30)}, "is below"),
        ({"prompt_len": 3, "dp_rank": 10**30}, f"dp_rank={10**30} is above"),
        ({"prompt_len": 2.5}, r"prompt_len=2\.5"),
        ({"prompt_len": True}, "prompt_len=True"),
        ({}, "neither prompt_len nor input_ids"),
        ({"input_ids": []}, "empty"),
        ({"input_ids": [1, "2"]}, "'2'"),
        ({"input_ids": [1, -2]}, "-2"),
        ({"input_ids": [1, 1000]}, "1000"),
        ({"input_ids": [1, 2], "prompt_len": 3}, "disagree"),
        ({"prompt_len": 3, "prompt_token": 1000}, "1000"),
        ({"prompt_len": 3, "prompt_token": -1}, "prompt_token=-1"),
        ({"prompt_len": 3, "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"prompt_len": 3, "max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"prompt_len": 3, "temperature": -0.5}, "temperature"),
        ({"prompt_len": 3, "temperature": float("nan")}, "temperature"),
        ({"prompt_len": 3, "rid": ""}, "rid=''"),
        ({"prompt_len": 3, "rid": 7}, "rid=7"),
    ],
)
def test_impossible_arguments_of_start_req(start, kwargs, match):
    start().execute_script(raises(ConfigError, match, lambda t: t.start_req(**kwargs)))


@pytest.mark.parametrize(
    ("kwargs", "capability"),
    [
        ({"priority": 1}, "priority"),
        ({"dp_rank": 0}, "dp"),
        ({"lora_path": "x"}, "lora"),
        ({"return_logprob": True}, "logprobs"),
        ({"top_logprobs_num": 2}, "logprobs"),
    ],
)
def test_arguments_that_need_a_capability(start, kwargs, capability):
    start().execute_script(
        raises(CapabilityMissing, repr(capability), lambda t: t.start_req(prompt_len=3, **kwargs))
    )


def test_a_rid_is_used_once_even_after_its_end(start):
    def script(t):
        handle = t.start_req(prompt_len=3, rid="used", max_new_tokens=1)
        with pytest.raises(ConfigError, match=r"'used' was already used"):
            t.start_req(prompt_len=3, rid="used")
        yield from finish(handle)
        with pytest.raises(ConfigError, match=r"'used' was already used"):
            t.start_req(prompt_len=3, rid="used")

    session = start()
    session.execute_script(script)
    session.execute_script(script)


@pytest.mark.parametrize("rid", ["ab", "abcd"])
def test_live_rids_that_are_prefixes_of_each_other_are_refused(start, rid):
    def script(t):
        handle = t.start_req(prompt_len=3, rid="abc", max_new_tokens=1)
        with pytest.raises(ConfigError, match=rf"'{rid}'.*'abc'"):
            t.start_req(prompt_len=3, rid=rid)
        yield from finish(handle)
        yield from finish(t.start_req(prompt_len=3, rid=rid))

    start().execute_script(script)


def test_automatic_rids_depend_on_the_seed_and_the_count_alone(start):
    rids = []

    def script(t):
        rids.append([t.start_req(prompt_len=3).rid for _ in range(3)])
        yield

    for seed in (5, 5, 6):
        start(seed=seed).execute_script(script)
    assert rids[0] == rids[1]
    assert not set(rids[0]) & set(rids[2])
    assert [rid.split("-")[:2] for rid in rids[0]] == [["scripted", str(n)] for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda t: t.pause_generation(mode="sideways"), ConfigError, "'sideways'"),
        (lambda t: t.abort("rid"), ConfigError, "'rid' is not a request handle"),
        (lambda t: t.flush_cache(via="post"), ConfigError, "'post'"),
        (lambda t: t.flush_cache(via="http"), CapabilityMissing, "http"),
        (lambda t: t.exhaust_kv(leave_pages=-1), ConfigError, "leave_pages=-1"),
        (lambda t: t.exhaust_kv(leave_pages=1, pool="swa"), ConfigError, "'swa'"),
        (lambda t: t.exhaust_kv(leave_pages=1, evictable="x"), ConfigError, "'x'"),
        (lambda t: t.exhaust_kv(leave_pages=65), ExhaustError, "64"),
        (lambda t: t.exhaust_lock_refs(leave_refs=-1), ConfigError, "leave_refs=-1"),
        (lambda t: t.exhaust_kv(leave_pages=1), PluginNotFound, "'kv'"),
        (lambda t: t.client_of("nobody"), ConfigError, "nobody"),
    ],
)
def test_impossible_control_calls(start, call, error, match):
    start().execute_script(raises(error, match, call))


def test_a_handle_of_an_unknown_rid_is_legal(start):
    def script(t):
        handle = t.handle("nobody")
        assert handle.req is None
        assert handle.status == "unknown"
        assert not handle.finished
        assert (handle.chunks_done, handle.kv_pages, handle.lock_refs) == (0, 0, 0)
        assert handle.remaining_prompt_tokens == 0
        assert handle.output_ids == []
        t.abort(handle)
        yield
        assert not handle.finished

    start().execute_script(script)


def test_a_request_is_waiting_between_post_and_arrival(start):
    def script(t):
        handle = t.start_req(prompt_len=40, rid="a")
        assert handle.status == "waiting"
        assert handle.req is None
        yield
        assert handle.status == "running"
        assert handle.remaining_prompt_tokens == 24
        assert t.batch_composition() == {
            "prefill": ["a"],
            "decode": [],
            "chunked": ["a"],
            "running": [],
        }

    start().execute_script(script)


def test_engine_stats(start):
    def script(t):
        stats = t.engine_stats()
        assert stats["kv_pool_free"] == stats["kv_pool_total"] == 64
        assert stats["req_pool_free"] == stats["req_pool_total"] == 8
        assert stats["page_size"] == 4
        t.start_req(prompt_len=10)
        yield
        stats = t.engine_stats()
        assert stats["kv_pool_free"] == 61
        assert stats["req_pool_free"] == 7

    start().execute_script(script)

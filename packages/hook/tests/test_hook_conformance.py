"""The conformance suite on the fake engine, whole and broken on purpose."""

from __future__ import annotations

import pytest
import scripted_exhausters.plugin
from scripted_core.capabilities import Capability
from scripted_core.conformance import CHECKS, Verdict, run_conformance
from scripted_core.conformance.judge import what_was_seen
from scripted_core.errors import EngineDied, EngineStartError, ScriptFailed
from scripted_core.ops import Abort, Flush
from scripted_core.testing import FakeEngine
from scripted_hook import ScriptedSchedulerHook
from scripted_registry import EngineConfig, EngineMode, EngineSpec, hookimpl
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

KWARGS = {"chunked_prefill_size": 16, "context_length": 128}


class Fakes:
    """The engine ``fake``, made by whatever class a test sets."""

    SCRIPTED_API = 1

    def __init__(self):
        self.engine_class = FakeEngine
        self.options = {}
        self.starts = 0

    @hookimpl
    def scripted_register_engines(self):
        return [EngineSpec(name="fake", summary="a fake", modes=(EngineMode.IN_PROCESS,))]

    @hookimpl
    def scripted_make_engine(self, config):
        self.starts += 1
        if self.starts > self.options.get("most_starts", 1_000):
            raise EngineStartError("it does not start any more")
        options = {name: one for name, one in self.options.items() if name != "most_starts"}
        engine = self.engine_class(num_pages=128, **options)
        hook = ScriptedSchedulerHook(
            scheduler=engine.scheduler, tokenizer_recv_proxy=None, adapter=engine
        )
        return engine.connect(hook)


@pytest.fixture
def fakes(plugins):
    made = Fakes()
    plugins.register(made, name="fakes")
    plugins.register(scripted_exhausters.plugin, name="exhausters")
    return made


def judge(*names, kwargs=KWARGS, **options):
    checks = [one for one in CHECKS if not names or one.name in names]
    config = EngineConfig(engine="fake", kwargs=kwargs, mode=EngineMode.IN_PROCESS)
    return run_conformance(config, checks=checks, **options)


def test_the_fake_engine_does_everything_that_it_says(fakes):
    result = judge()
    assert {row.check: row.seen for row in result.wrong} == {}
    assert result.count(Verdict.DOES) >= 45
    assert fakes.starts == 1
    assert [row.check for row in result.rows] == [one.name for one in CHECKS]


def test_a_missing_capability_is_named_and_nothing_else_is_skipped_for_it(fakes):
    fakes.options = {"capabilities": frozenset({Capability.RETRACT})}
    result = judge()
    assert not result.wrong
    by_row = {row.check: row for row in result.rows}
    assert by_row["in_place_running"].seen == "no pause_in_place"
    assert by_row["retract_chunking"].seen == "no chunked_prefill"
    assert by_row["retract_running"].verdict is Verdict.DOES


def test_what_the_arguments_do_not_say_is_named(fakes):
    (row,) = judge("refused_before_the_inbox", kwargs={"chunked_prefill_size": 16}).rows
    assert (row.verdict, row.seen) == (Verdict.SKIPS, "context_tokens not among its arguments")


class FlushesAlways(FakeEngine):
    def _apply(self, op, receipt):
        if isinstance(op, Flush):
            receipt.settle(True)
        else:
            super()._apply(op, receipt)


class DropsAborts(FakeEngine):
    def _abort(self, op):
        if not isinstance(op, Abort):
            super()._abort(op)


class ClaimsLogprobs(FakeEngine):
    """Says that it can what it then refuses."""

    def submit(self, spec, client):
        if spec.return_logprob:
            raise NotImplementedError("no logprobs after all")
        return super().submit(spec, client)


@pytest.mark.parametrize(
    ("engine_class", "row", "seen"),
    [
        (FlushesAlways, "flush_busy", "with a request running, .ok is True"),
        (DropsAborts, "abort_running", "the end of the request did not happen within 8 iterations"),
        (ClaimsLogprobs, "logprobs_leave_the_output", "NotImplementedError: no logprobs after all"),
    ],
)
def test_a_wrong_engine_is_seen(fakes, engine_class, row, seen):
    fakes.engine_class = engine_class
    fakes.options = {"capabilities": FakeEngine().capabilities | {Capability.LOGPROBS}}
    (judgement,) = judge(row).rows
    assert judgement.verdict is Verdict.WRONG
    assert judgement.seen.endswith(seen)


class Stalls(FakeEngine):
    def iterate(self):
        if self.scheduler.running:
            while True:
                pass
        super().iterate()


def test_a_stalled_engine_costs_one_row_and_a_start(fakes):
    fakes.engine_class = Stalls
    result = judge("idle_iterations", "statuses", "evict_all", stall_timeout_s=0.5)
    assert result.rows[0].verdict is Verdict.DOES
    assert "ScriptStalled" in result.rows[1].seen
    assert fakes.starts == 2


def test_an_engine_that_cannot_be_started_again_ends_the_run(fakes):
    fakes.engine_class, fakes.options = Stalls, {"most_starts": 1}
    with pytest.raises(EngineStartError, match="any more"):
        judge("statuses", "evict_all", stall_timeout_s=0.5)


def test_what_was_seen_is_short_and_the_same_everywhere():
    # An assertion is the same text from this process and from a server's.
    assert what_was_seen(AssertionError("it ended\n\nlast state:\nstep 3")) == "it ended"
    remote = ScriptFailed("the script failed: AssertionError: it ended\n\nTraceback …")
    assert what_was_seen(remote) == "it ended"
    other = ScriptFailed("the script failed: KeyError: 'x'\n\nlast state:\n")
    assert what_was_seen(other) == "KeyError: 'x'"
    died = EngineDied("engine 'x': rank scheduler (pid 123) broke: " + "long " * 100)
    assert what_was_seen(died).startswith("EngineDied: engine 'x': rank scheduler broke: long")
    assert len(what_was_seen(died)) == 160

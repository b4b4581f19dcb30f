from __future__ import annotations

import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import zmq
from scripted_core.ops import Evict, ReleaseHeld
from scripted_core.requests import ClientStream
from scripted_core.views import FinishKind, ForwardMode
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import _compat
from scripted_sglang.hooks import SchedulerProcess
from scripted_sglang.inbox import Belonging, RankOp, wait_for_input

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")


def _message(type_name: str, **fields: Any) -> Any:
    return type(type_name, (SimpleNamespace,), {})(**fields)


class _Batch(list[Any]):
    """A batch of requests as one message."""


class BatchTokenizedGenerateReqInput(_Batch):
    """By SGLang's name."""


class FlushCacheReqInput(SimpleNamespace):
    """By SGLang's name."""

    rid: str | None = None


# -- whose is it ---------------------------------------------------------------------------------


def test_only_messages_that_start_requests_have_rids() -> None:
    one = _message("TokenizedGenerateReqInput", rid="a")
    assert _compat.rids_in(one) == ("a",)
    assert _compat.rids_in(_message("TokenizedEmbeddingReqInput", rid="b")) == ("b",)
    assert _compat.rids_in(BatchTokenizedGenerateReqInput([one, one])) == ("a", "a")
    assert _compat.rids_in(_message("AbortReq", rid="a")) == ()


def test_a_script_gets_its_own_requests_and_what_it_waits_for() -> None:
    belonging = Belonging()
    belonging.clients["mine"] = client = ClientStream()
    client.closes_by(lambda: None)
    belonging.expected_types.add("FlushCacheReqInput")
    assert not belonging.is_foreign(_message("TokenizedGenerateReqInput", rid="mine"))
    assert not belonging.is_foreign(_message("FlushCacheReqInput"))
    assert not belonging.is_foreign(_message("ShutdownReq"))
    for foreign in (
        _message("TokenizedGenerateReqInput", rid="HEALTH_CHECK_1"),
        _message("TokenizedGenerateReqInput", rid="mine too"),
        # SGLang's front sends one of its own some time after each stream.
        _message("AbortReq", rid="mine"),
        _message("PauseGenerationReqInput"),
    ):
        assert belonging.is_foreign(foreign)
    client.hang_up()
    assert not belonging.is_foreign(_message("AbortReq", rid="mine"))


def test_a_sleep_ends_with_the_first_input() -> None:
    context = zmq.Context()
    push, pull, quiet = context.socket(zmq.PUSH), context.socket(zmq.PULL), context.socket(zmq.PULL)
    try:
        pull.bind("inproc://inbox")
        push.connect("inproc://inbox")
        quiet.bind("inproc://quiet")
        begun = time.monotonic()
        wait_for_input([quiet, pull], timeout_s=0.05)
        assert time.monotonic() - begun >= 0.04
        push.send(b"x")
        begun = time.monotonic()
        wait_for_input([quiet, pull], timeout_s=30)
        assert time.monotonic() - begun < 5
    finally:
        for socket in (push, pull, quiet):
            socket.close(linger=0)
        context.term()


# -- memory operations among SGLang's messages ---------------------------------------------------


class _Recorder:
    """In place of the adapter and of SGLang's own handler: who got what, in order."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.fired: dict[str, None] = {}

    def apply_rank_op(self, op: RankOp) -> None:
        self.seen.append(op)

    def original(self, scheduler: Any, messages: list[Any]) -> str:
        self.seen.append(list(messages))
        return "what SGLang returns"


def test_memory_operations_keep_their_place_and_the_list_is_left_alone() -> None:
    recorder = _Recorder()
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    process._adapter = recorder  # type: ignore[assignment]
    evict, release = RankOp(Evict(prefix_tokens=None)), RankOp(ReleaseHeld())
    messages = ["a", "b", evict, release, "c"]
    before = list(messages)
    returned = process.process_input_requests(recorder.original, object(), messages)
    assert returned == "what SGLang returns"
    assert recorder.seen == [["a", "b"], evict, [], release, ["c"]]
    assert messages == before


def test_without_memory_operations_sglang_gets_its_own_list() -> None:
    recorder = _Recorder()
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    messages: list[Any] = ["a"]
    given: list[Any] = []
    process.process_input_requests(lambda _, run: given.append(run), object(), messages)
    assert given[0] is messages
    assert recorder.seen == []


def test_hooks_of_a_process_that_is_not_attached_change_nothing() -> None:
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    process.before_receive(object())
    process.before_run_batch(object(), object())
    process.before_stream_output(object(), [object()])
    process.before_abort_output(object(), object(), object())
    assert process.pull_raw_reqs(lambda receiver: None, object()) is None
    assert process.send_output(lambda *sent: sent, "sender", "out", "in") == ("sender", "out", "in")
    assert process.flush_cache(lambda scheduler: True, object()) is True
    assert (process.add_held_tokens(3), process.add_held_rows(4)) == (3, 4)


def test_a_rank_without_an_inbox_pulls_none_and_passes_it_on() -> None:
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    process._adapter = SimpleNamespace(proxy=object(), fired={})  # type: ignore[assignment]
    assert process.pull_raw_reqs(lambda receiver: None, object()) is None


class _Flushing:
    """An adapter whose tree is locked or not."""

    def __init__(self, *, blocked: bool) -> None:
        self.blocked = blocked
        self.outcomes: list[bool] = []

    def flush_blocked(self) -> bool:
        return self.blocked

    def flushed(self, ok: bool) -> None:
        self.outcomes.append(ok)


@pytest.mark.parametrize(("blocked", "answer"), [(False, True), (False, False), (True, False)])
def test_a_locked_tree_is_not_flushed(blocked: bool, answer: bool) -> None:
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    adapter = _Flushing(blocked=blocked)
    process._adapter = adapter  # type: ignore[assignment]
    called: list[Any] = []

    def original(scheduler: Any) -> bool:
        called.append(scheduler)
        return answer

    assert process.flush_cache(original, "scheduler") is answer
    assert called == ([] if blocked else ["scheduler"])
    assert adapter.outcomes == [answer]


class _Finishes:
    """An adapter that keeps the ends it is told of."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def report_finish(self, req: Any, reason: Any) -> None:
        self.ended.append((req.rid, reason.message))


def test_of_what_a_scheduler_sends_only_a_notice_of_an_abort_is_an_end() -> None:
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    process._adapter = adapter = _Finishes()  # type: ignore[assignment]
    req = SimpleNamespace(rid="a", output_ids=[])
    process.before_abort_output("sender", _message("BatchTokenIDOutput"), req)
    process.before_abort_output("sender", _message("BatchTokenIDOutput"))
    process.before_abort_output("sender", _message("AbortReq", finished_reason=None))
    assert adapter.ended == []
    process.before_abort_output("sender", _message("AbortReq", finished_reason=None), req)
    full = {"type": "abort", "message": "The request queue is full."}
    process.before_abort_output("sender", _message("AbortReq", finished_reason=full), req)
    assert adapter.ended == [("a", "Aborted"), ("a", "The request queue is full.")]


def test_only_the_answer_to_our_own_flush_is_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    io_struct = ModuleType("io_struct")
    io_struct.FlushCacheReqInput = FlushCacheReqInput  # type: ignore[attr-defined]
    managers = ModuleType("managers")
    managers.io_struct = io_struct  # type: ignore[attr-defined]
    for name in ("sglang", "sglang.srt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sglang.srt.managers", managers)
    process = SchedulerProcess(SimpleNamespace())  # type: ignore[arg-type]
    sent: list[Any] = []

    def original(sender: Any, output: Any, answered: Any) -> None:
        sent.append(answered)

    theirs, of_a_request = FlushCacheReqInput(), SimpleNamespace(rid="scripted-flush")
    for answered in (_compat.our_flush(), theirs, of_a_request, None):
        process.send_output(original, "sender", "output", answered)
    assert sent == [theirs, of_a_request, None]


# -- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("json", "kind", "message"),
    [
        ({"type": "length", "length": 3}, FinishKind.LENGTH, ""),
        ({"type": "stop", "matched": 2}, FinishKind.STOP, ""),
        ({"type": "abort", "message": "Aborted"}, FinishKind.ABORT, "Aborted"),
    ],
)
def test_finish_reasons(json: dict[str, Any], kind: FinishKind, message: str) -> None:
    reason = _compat.finish_reason_from(json)
    assert (reason.kind, reason.message) == (kind, message)
    req = SimpleNamespace(finished_reason=SimpleNamespace(to_json=lambda: json))
    assert _compat.finish_reason_of(req) == reason


def test_a_request_without_a_reason_was_aborted() -> None:
    assert _compat.finish_reason_of(SimpleNamespace(finished_reason=None)).kind is FinishKind.ABORT


def test_modes_that_are_not_in_the_neutral_list_are_other() -> None:
    for name, mode in (("MIXED", ForwardMode.MIXED), ("TARGET_VERIFY", ForwardMode.OTHER)):
        batch = SimpleNamespace(forward_mode=SimpleNamespace(name=name))
        assert _compat.forward_mode_of(batch) is mode


def test_rows_and_lengths_are_read_from_either_place() -> None:
    old = SimpleNamespace(req_pool_idx=3, kv_allocated_len=5)
    new = SimpleNamespace(kv=SimpleNamespace(req_pool_idx=3, kv_allocated_len=5))
    assert (_compat.row_of(old), _compat.row_of(new)) == (3, 3)
    new.kv.kv_allocated_len = 0
    assert _compat.row_of(new) is None
    new.kv = SimpleNamespace(req_pool_idx=None, kv_allocated_len=5)
    assert _compat.row_of(new) is None


def test_a_rank_is_named_by_what_there_is_more_than_one_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = SimpleNamespace(tp_rank=1, tp_size=2, pp_rank=0, pp_size=2, dp_rank=None, dp_size=1)
    assert _compat.placement(SimpleNamespace(ps=place)) == {"pp": (0, 2), "tp": (1, 2)}
    context = ModuleType("runtime_context")
    context.get_parallel = lambda: place  # type: ignore[attr-defined]
    for name in ("sglang", "sglang.srt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sglang.srt.runtime_context", context)
    assert _compat.placement(SimpleNamespace()) == {"pp": (0, 2), "tp": (1, 2)}


def test_messages_that_a_newer_scheduler_has_put_off_are_still_on_their_way() -> None:
    assert _compat.deferred_messages(SimpleNamespace()) == ()
    assert _compat.deferred_messages(SimpleNamespace(_deferred_input_requests=["a"])) == ("a",)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import FinishKind, FinishReason, ForwardMode, ScriptedBatchRecord
from scripted_hook.generate_client import finish_reason_of, generate_payload
from scripted_hook.ledger import Ledger
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")

DONE = FinishReason(FinishKind.LENGTH)


@pytest.fixture
def ledger():
    return Ledger(live_output_ids=lambda rid: None)


def extend(*rids, chunked=()):
    return ScriptedBatchRecord(1, ForwardMode.EXTEND, rids, rids, None, tuple(chunked))


@given(chunks=st.integers(1, 6), others=st.lists(st.booleans(), min_size=6, max_size=6))
def test_chunks_are_counted_with_the_completing_one(chunks, others):
    ledger = Ledger(live_output_ids=lambda rid: None)
    for n in range(chunks):
        partial = ["a"] if n < chunks - 1 else []
        more = ("b",) if others[n] else ()
        ledger.on_batch(extend("a", *more, chunked=partial))
    assert ledger.chunks_done("a") == (chunks if chunks > 1 else 0)
    assert ledger.chunks_done("b") == 0


def test_several_requests_may_be_mid_chunk_at_once(ledger):
    ledger.on_batch(extend("a", "b", chunked=["a", "b"]))
    ledger.on_batch(extend("a", "b", chunked=["b"]))
    ledger.on_batch(extend("b"))
    assert (ledger.chunks_done("a"), ledger.chunks_done("b")) == (2, 3)


def test_the_first_end_wins(ledger):
    ledger.submitted(ReqSpec(rid="a", input_ids=(1,)), ClientStream())
    assert ledger.live_rids() == ("a",)
    assert ledger.finished("a", DONE, (1, 2))
    assert not ledger.finished("a", FinishReason(FinishKind.ABORT), ())
    assert ledger.finish_reason("a") == DONE
    assert ledger.output_ids("a") == [1, 2]
    assert ledger.live_rids() == ()


def test_clear_forgets_everything(ledger):
    ledger.submitted(ReqSpec(rid="a", input_ids=(1,)), ClientStream())
    ledger.on_batch(extend("a", chunked=["a"]))
    ledger.on_parked("a")
    ledger.finished("a", DONE, (1,))
    ledger.clear()
    assert not ledger.is_submitted("a")
    assert ledger.client("a") is None
    assert ledger.finish_reason("a") is None
    assert (ledger.chunks_done("a"), ledger.chunked_parks("a")) == (0, 0)
    assert ledger.output_ids("a") == []


@given(st.lists(st.integers(0, 9), max_size=20), st.data())
def test_growing_output_is_never_reported(tokens, data):
    ledger = Ledger(live_output_ids=lambda rid: None)
    lengths = sorted(data.draw(st.lists(st.integers(0, len(tokens)), max_size=8)))
    for length in lengths:
        assert ledger.check_appended("a", tokens[:length]) is None


def test_output_that_shrinks_or_changes_is_reported(ledger):
    assert ledger.check_appended("a", [1, 2, 3]) is None
    assert "3 output tokens" in ledger.check_appended("a", [1, 2])
    assert ledger.check_appended("b", [1, 2, 3]) is None
    assert "token 2 was 3" in ledger.check_appended("b", [1, 2, 9, 4])
    assert ledger.check_appended("c", [1, 2, 3]) is None
    assert ledger.check_appended("c", [1, 2, 9]) is not None


# -- the client's stream ---------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 12), max_size=6))
def test_a_stream_that_repeats_all_so_far_is_received_once(tokens, cuts):
    client = ClientStream()
    for cut in [*sorted(cuts), len(tokens)]:
        client.receive_all(tokens[:cut])
    assert client.token_ids == tokens
    assert sum(client.chunks) == len(tokens)


def test_a_splice_shows():
    client = ClientStream()
    client.receive_all([1, 2])
    client.receive_all([1, 9, 3])
    assert client.token_ids != [1, 9, 3]


def test_the_first_end_of_a_stream_counts():
    client = ClientStream()
    assert not client.ended
    client.end(DONE)
    client.end(FinishReason(FinishKind.ABORT))
    assert client.wait_ended(0)
    assert client.finish_reason == DONE


def test_the_payload_has_the_fields_that_were_given_and_no_others():
    spec = ReqSpec(rid="a", input_ids=(1, 2), max_new_tokens=3)
    assert generate_payload(spec) == {
        "rid": "a",
        "input_ids": [1, 2],
        "sampling_params": {"max_new_tokens": 3, "temperature": 0.0, "ignore_eos": False},
        "stream": True,
    }
    full = ReqSpec(
        rid="a",
        input_ids=(1,),
        stop_token_ids=(5,),
        temperature=0.5,
        return_logprob=True,
        top_logprobs_num=2,
        priority=-1,
        dp_rank=0,
        lora_path="l",
    )
    payload = generate_payload(full)
    assert payload["sampling_params"]["stop_token_ids"] == [5]
    assert payload["sampling_params"]["temperature"] == 0.5
    assert (payload["priority"], payload["routed_dp_rank"]) == (-1, 0)
    assert (payload["lora_path"], payload["top_logprobs_num"]) == ("l", 2)


@pytest.mark.parametrize(
    ("reason", "kind", "message"),
    [
        ({"type": "length", "length": 3}, FinishKind.LENGTH, ""),
        ({"type": "stop", "matched": 2}, FinishKind.STOP, ""),
        ({"type": "abort", "message": "gone"}, FinishKind.ABORT, "gone"),
        ({"type": "abort", "message": None}, FinishKind.ABORT, ""),
    ],
)
def test_finish_reasons_in_their_json_form(reason, kind, message):
    assert finish_reason_of(reason) == FinishReason(kind, message)

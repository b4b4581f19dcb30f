"""Parts of the server on their own: what is hard to bring about from outside, or to see there."""

from __future__ import annotations

import asyncio
import math
import os
import sys

import pytest
from scripted_reference.models.base import BatchResult, TokenLogprobs
from scripted_reference.models.tokenizer import ByteTokenizer
from scripted_reference.server import wire
from scripted_reference.server.device_timer import HostTimer
from scripted_reference.server.forward_meter import WINDOW_FORWARDS, ForwardMeter
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.inbox import Belonging
from scripted_reference.server.launch import explain
from scripted_reference.server.openai_bodies import CompletionsBody
from scripted_reference.server.process import COMPLAINT, ForgivingStream
from scripted_reference.server.replies import generation_json
from scripted_reference.server.routes_openai import CompletionPart
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")

_TOKENIZER = ByteTokenizer()


class _Clock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


def _forward_of(clock, ns):
    def forward():
        clock.now_ns += ns
        return BatchResult(None)

    return forward


def test_forward_occupancy_is_the_share_of_a_windows_wall_time_in_forwards():
    clock = _Clock()
    meter = ForwardMeter(timer=HostTimer(clock_ns=clock), clock_ns=clock)
    for _ in range(WINDOW_FORWARDS):
        assert math.isnan(meter.fwd_occupancy)
        meter.timed(_forward_of(clock, 30_000_000))
        meter.generated(2)
        clock.now_ns += 10_000_000
    # The last gap belongs to the next window: 40 forwards of 30 ms in 1,590 ms.
    assert meter.fwd_occupancy == pytest.approx(100 * 1200 / 1590)
    assert meter.gen_throughput == pytest.approx(78 / 1.59)
    assert (meter.forwards_total, meter.generated_tokens_total) == (WINDOW_FORWARDS, 80)
    meter.idle()
    clock.now_ns += 10**12
    assert math.isnan(meter.fwd_occupancy)
    assert meter.gen_throughput == 0
    for _ in range(WINDOW_FORWARDS):
        meter.timed(_forward_of(clock, 1_000_000))
    assert meter.fwd_occupancy == pytest.approx(100), "time in which nothing was to do counts not"


def _generation(*, stop=(), keep_stop=False, **spec):
    message = wire.Generate(rid="r", input_ids=[1, 2], max_new_tokens=9, **spec)
    return Generation(message, tokenizer=_TOKENIZER, stop=stop, keep_stop=keep_stop)


def _output(text, *, finish=None, logprobs=()):
    ids = _TOKENIZER.encode(text)
    return wire.Output(
        rid="r",
        token_ids=ids,
        output_logprobs=[TokenLogprobs(token, -0.5) for token in ids] if logprobs else [],
        finish=finish,
    )


def test_a_stop_string_over_two_outputs_cuts_text_tokens_and_logprobs_where_it_begins():
    generation = _generation(stop=("END", "never"), return_logprob=True)

    async def run():
        generation.receive(_output("abE", logprobs=True))
        await generation.advance()
        assert (generation.text, generation.finish) == ("abE", None)
        generation.receive(_output("NDcd", logprobs=True))
        await generation.advance()

    asyncio.run(run())
    assert generation.text == "ab"
    assert generation.output_ids == _TOKENIZER.encode("abEND")
    assert len(generation.output_logprobs) == 5
    reply = generation_json(generation, tokenizer=_TOKENIZER, with_text_in_logprobs=True)
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": "END"}
    assert reply["meta_info"]["output_token_logprobs"][4] == (-0.5, _TOKENIZER.encode("D")[0], "D")


def test_what_has_come_before_the_scheduler_ended_is_not_taken_for_the_whole():
    generation = _generation()
    generation.receive(_output("ab"))
    generation.receive(RequestError("it has ended"))
    with pytest.raises(RequestError, match="it has ended"):
        asyncio.run(generation.complete())
    assert generation.finish is None


def test_a_streamed_completion_never_sends_half_a_character():
    generation = _generation()
    part = CompletionPart(generation, CompletionsBody(prompt="x"), _TOKENIZER)
    pieces = []

    async def run():
        ids = _TOKENIZER.encode("a\u20acb")
        for i, token in enumerate(ids):
            finish = wire.Finish("length") if i == len(ids) - 1 else None
            generation.receive(wire.Output(rid="r", token_ids=[token], finish=finish))
            await generation.advance()
            pieces.append(part.choice(0)["text"])

    asyncio.run(run())
    assert pieces == ["a", "", "", "\u20ac", "b"]


def test_logprobs_of_a_stream_come_once_each_with_their_offsets():
    generation = _generation(return_logprob=True)
    body = CompletionsBody(prompt="x", logprobs=1)
    part = CompletionPart(generation, body, _TOKENIZER)
    found = []

    async def run():
        for text in ("ab", "c"):
            generation.receive(_output(text, logprobs=True))
            await generation.advance()
            found.append(part.choice(0)["logprobs"])

    asyncio.run(run())
    assert [one["tokens"] for one in found] == [["a", "b"], ["c"]]
    assert [one["text_offset"] for one in found] == [[0, 1], [2]]


def test_what_belongs_to_a_script_is_known_by_rid_and_by_what_it_waits_for():
    belonging = Belonging()
    mine = wire.Generate(rid="mine", input_ids=[1], max_new_tokens=1)
    belonging.rids.add("mine")
    assert not belonging.is_foreign(mine)
    assert belonging.is_foreign(wire.Generate(rid="other", input_ids=[1], max_new_tokens=1))
    assert belonging.is_foreign(wire.Abort("mine")), "the front's, for a client that went away"
    belonging.expected.add(wire.Abort)
    assert not belonging.is_foreign(wire.Abort("mine"))
    assert not belonging.is_foreign(wire.GetState(1)), "looking changes nothing"


@pytest.mark.parametrize(
    "message",
    [
        wire.Generate(rid="r", input_ids=[1, 2], max_new_tokens=3, temperature=0.5, seed=2**62),
        wire.Abort(None),
        wire.Pause(1, "retract"),
        wire.Continue(2),
        wire.Flush(3),
        wire.GetState(4),
    ],
)
def test_messages_to_the_scheduler_come_out_as_they_went_in(message):
    assert wire.decode_for_scheduler(wire.encode(message)) == message


def test_the_first_complaint_of_a_log_explains_a_failed_start():
    log = f"noise\n{COMPLAINT} no model\nhint: give one\n{COMPLAINT} the scheduler ended\nmore"
    assert explain(log) == "the reference engine says: no model\nhint: give one"
    assert explain("Traceback (most recent call last)") is None


def test_a_forgiving_stream_writes_what_it_can_and_raises_never():
    reading, writing = os.pipe()
    stream = ForgivingStream(writing)
    assert stream.write("caf\u00e9 \udcff\n") == 7
    assert os.read(reading, 100).decode() == "caf\u00e9 \\udcff\n"
    os.close(writing)
    assert stream.write("to nobody") == 9
    os.close(reading)
    with open("/dev/full", "wb") as full:
        print("x" * 100_000, file=ForgivingStream(full.fileno()), flush=True)


def test_the_front_starts_its_scheduler_before_it_imports_what_is_heavy():
    import subprocess

    code = "import sys, scripted_reference.server.front_process as m; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert {"aiohttp", "zmq", "torch"}.isdisjoint(loaded.stdout.split())

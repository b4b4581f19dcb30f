"""A canary on both servers of a pair: what is known of KV goes with it over the wire."""

from __future__ import annotations

import pytest
import zmq
from scripted_canary.plugin import install
from scripted_core.ops import Transfer, TransferAction
from scripted_reference.bootstrap import Bootstrap
from scripted_reference.engine_kwargs import parse_engine_kwargs
from scripted_reference.messages import GenerateReq
from scripted_reference.observer import NoObserver
from scripted_reference.pd.servers import DecodeServer, PrefillServer
from scripted_reference.request import SamplingParams
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=4, stage="pd", runner_config="cpu")

_SIZES = {"max_total_tokens": 512, "context_length": 256, "chunked_prefill_size": 32}
_ROOM = 41


class _Ends(NoObserver):
    """How requests ended."""

    def __init__(self):
        self.reasons = {}

    def on_finish(self, req):
        self.reasons[req.rid] = req.finished_reason


class _TwoEngines:
    """The engines of both servers in this process, and the real sockets between them."""

    def __init__(self, port, *, model="hash", prefill=None, decode=None):
        both = {"model_path": model, **_SIZES, "disaggregation_bootstrap_port": port}
        self.context = zmq.Context()
        self.prefill = PrefillServer(
            parse_engine_kwargs({**both, **(prefill or {}), "disaggregation_mode": "prefill"}),
            context=self.context,
            host="127.0.0.1",
        )
        self.decode = DecodeServer(
            parse_engine_kwargs({**both, **(decode or {}), "disaggregation_mode": "decode"}),
            context=self.context,
        )
        self.canaries = [install(engine.kv) for engine in (self.prefill, self.decode)]
        self.ends = self.decode.observer = _Ends()
        self._bootstrap = Bootstrap("127.0.0.1", port, _ROOM)

    def answer(self, prompt_len=70):
        """How a request ended."""
        request = GenerateReq(
            rid="r",
            input_ids=[1 + 31 * i % 200 for i in range(prompt_len)],
            sampling_params=SamplingParams(max_new_tokens=6, ignore_eos=True),
            bootstrap=self._bootstrap,
        )
        for engine in (self.prefill, self.decode):
            engine.post(request)
        for _ in range(5000):
            self.prefill.iterate()
            self.decode.iterate()
            if "r" in self.ends.reasons:
                return self.ends.reasons["r"]
        raise AssertionError("not finished")


@pytest.fixture
def two_engines():
    started = []

    def start(**options):
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            port = socket.bind_to_random_port("tcp://127.0.0.1")
        started.append(_TwoEngines(port, **options))
        return started[-1]

    yield start
    for one in started:
        one.context.destroy(linger=0)


_ON = {"kv_canary": "log", "kv_canary_real_data": "all"}


@pytest.mark.parametrize("model", ["hash", "tiny"])
@pytest.mark.parametrize("real_data", ["none", "partial", "all"])
def test_what_arrives_is_what_was_recorded(two_engines, model, real_data):
    on = {"kv_canary": "raise", "kv_canary_real_data": real_data}
    engines = two_engines(model=model, prefill=on, decode=on)
    assert engines.answer().message is None
    prefill, decode = engines.canaries
    assert [list(one.groups) for one in engines.canaries] == [["full@prefill"], ["full"]]
    # Chunks of 32 behind 0, 32 and 64 tokens; five decodes behind 70 to 74.
    assert prefill.verified_slots_total == 32 + 64
    assert decode.verified_slots_total == 70 + 71 + 72 + 73 + 74
    assert prefill.violations_total == decode.violations_total == 0


@pytest.mark.parametrize("moment", ["before it is sent", "on its way"])
def test_one_wrong_byte_is_found_in_the_first_forward(two_engines, moment):
    engines = two_engines(prefill=_ON, decode=_ON)
    prefill, decode = engines.canaries
    if moment == "on its way":
        take_in = engines.decode.transfer.take_in

        def garbled(room, **chunk):
            contents = chunk["contents"].copy()
            contents.view("u1").reshape(-1)[5] ^= 1
            take_in(room, **{**chunk, "contents": contents})

        engines.decode.transfer.take_in = garbled
        slots = 3  # one in each chunk
    else:
        after = prefill.after_forward

        def flips(group, batch, chosen):
            after(group, batch, chosen)
            engines.prefill.prefill.model.kv.buffers(in_window=False)[0][batch.out_slots[-1]] ^= 1

        prefill.after_forward = flips
        slots = 3
    engines.answer()
    found = decode.violations.last(100)
    assert {(one.pool, one.reason.value) for one in found} == {("full", "verify_real_kv_hash")}
    assert sum(one.step == 1 for one in found) == slots
    if moment == "on its way":
        assert prefill.violations_total == 0


def test_a_chunk_that_comes_twice_has_what_is_known_with_it_both_times(two_engines):
    engines = two_engines(prefill=_ON, decode=_ON)
    transfer = engines.decode.transfer
    take_in = transfer.take_in

    def loses_the_first(room, **chunk):
        take_in(room, **chunk)
        sent = transfer.pending[-1].number
        transfer.apply(Transfer(TransferAction.DUPLICATE, chunks=(sent,), count=1))
        transfer.apply(Transfer(TransferAction.DROP, chunks=(sent,)))

    transfer.take_in = loses_the_first
    assert engines.answer().message is None
    decode = engines.canaries[1]
    assert (decode.violations_total, decode.verified_slots_total) == (0, 360)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, "has no KV canary"),
        ({**_ON, "kv_canary_real_data": "partial"}, "kv_canary_real_data='partial', and this one"),
    ],
)
def test_a_canary_that_cannot_know_the_other_fails_the_request(two_engines, there, said):
    engines = two_engines(prefill=there, decode=_ON)
    reason = engines.answer()
    assert said in reason.message
    assert "start both with the same kv_canary" in reason.message


def test_a_canary_of_the_prefill_server_alone_is_no_obstacle(two_engines):
    engines = two_engines(prefill=_ON)
    assert engines.answer().message is None
    assert engines.canaries[1] is None

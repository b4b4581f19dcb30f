"""Mistakes that a pair invites, made on purpose: one gauntlet of a script finds each of them."""

from __future__ import annotations

import pytest
from scripted_backend_pd import (
    Prompt,
    advance_to_pd_stage,
    pair_kwargs,
    responses_of,
    single_device_kwargs_of,
)
from scripted_chunked import advance_to_decode_step, run_until_all_finished
from scripted_core import InProcessSession
from scripted_core.errors import ScriptedError
from scripted_core.views import PdStage
from scripted_reference.departures import Departures
from scripted_reference.pd.decode import DecodeDepartures, DecodeScheduler, RetractedKv
from scripted_reference.pd.engine import PdEngine
from scripted_reference.pd.prefill import PrefillDepartures, PrefillResults, PrefillScheduler
from scripted_reference.pd.rooms import Room, RoomState
from scripted_reference.pd.transfer import KvTransfer
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="pd", runner_config="cpu")

_KWARGS = pair_kwargs(page_size=4)
_PROMPTS = (Prompt(250, seed=1), Prompt(90, seed=2), Prompt(130, seed=3))


@pytest.fixture(scope="module")
def expected():
    found = responses_of(_PROMPTS, single_device_kwargs_of(_KWARGS))
    return [list(response.output_ids) for response in found]


def _gauntlet(t, expected):
    """Out of order, twice, across a retraction of either engine, lost, and after the end."""
    handles = [prompt.start(t) for prompt in _PROMPTS]
    t.transfer.hold()
    while len(t.transfer.pending_of(handles[0])) < 2:
        yield
    t.prefill.pause_generation(mode="retract")
    yield
    t.transfer.step(2)
    yield
    t.prefill.continue_generation()
    while not all(any(c.is_last for c in t.transfer.pending_of(h)) for h in handles):
        yield
    for chunk in t.transfer.pending:
        t.transfer.duplicate(chunk, iterations=25)
    yield
    t.transfer.reorder(list(reversed(t.transfer.pending)))
    t.transfer.resume()
    yield from advance_to_decode_step(handles[1], 4)
    t.pause_generation(mode="retract")
    yield
    t.continue_generation()
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected
    for _ in range(30):
        yield
    lost = _PROMPTS[0].start(t)
    yield from advance_to_pd_stage(t, lost, PdStage.TRANSFERRING)
    for chunk in t.transfer.pending:
        t.transfer.drop(chunk)
    t.transfer.resume()
    yield from run_until_all_finished([lost])
    assert lost.status == "aborted"
    gone = _PROMPTS[1].start(t)
    yield from advance_to_pd_stage(t, gone, PdStage.TRANSFERRING)
    t.decode.abort(gone)
    t.transfer.resume()
    for _ in range(10):
        yield
    assert t.is_fully_idle
    assert not any(t.get_all_node_lock_refs().values())


def _run(expected):
    with InProcessSession.start(backend="reference", **_KWARGS) as session:
        session.execute_script(_gauntlet, args=(expected,))


def test_the_gauntlet_is_passed_without_a_mistake(expected):
    _run(expected)


def _accept_everything(self, chunk):
    return None


def _accept_stale_attempts(self, chunk):
    room = chunk.room
    if self._rooms.get(room.rid) is not room or room.state is not RoomState.READY:
        return "closed"
    return None


def _complete_with_the_last_chunk(self, start, end, first):
    self.arrived[start:end] = True
    if first is not None:
        self.first = first
        self.state = RoomState.COMPLETE


def _requeue_without_starting_over(self, req):
    Departures.requeue(self, req)


def _copy_one_token_less(self, req):
    scheduler = self._scheduler
    length = req.seq_len - 2
    contents = scheduler.model.kv.read(scheduler.slots_of(req)[:length])
    self._release(req, keep=False)
    scheduler.disagg_decode_retracted_queue.append(RetractedKv(req, contents, length))


def _resume_without_copying(self):
    while self.disagg_decode_retracted_queue:
        req, _, length = self.disagg_decode_retracted_queue[0]
        if not self.take_memory(req, length):
            return
        del self.disagg_decode_retracted_queue[0]
        self.set_running([*self.running_batch.reqs, req])


def _let_go_when_sent(self):
    for req in list(self.disagg_prefill_inflight_queue):
        self.disagg_prefill_inflight_queue.remove(req)
        self.departures.end(req)


def _never_time_out(self):
    return


def _tell_nobody(self):
    for room in self.rooms:
        if room.rid not in self.requests:
            self.rooms.close(room.rid)


def _send_without_the_cached_part(self, batch, result, discarded):
    super(PrefillResults, self).process_extend(batch, result, discarded)
    for req, start, length in zip(batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True):
        if req in discarded:
            continue
        room = self._scheduler.rooms.get(req.rid)
        if room is not None:
            room.sent_len = max(room.sent_len, start)
        self._scheduler.send_kv(req, end=start + length, is_complete=req is not batch.chunked_req)


@pytest.mark.parametrize(
    ("owner", "name", "mistake"),
    [
        (KvTransfer, "refusal", _accept_everything),
        (KvTransfer, "refusal", _accept_stale_attempts),
        (KvTransfer, "_fail_starved", _never_time_out),
        (Room, "receive", _complete_with_the_last_chunk),
        (PrefillDepartures, "requeue", _requeue_without_starting_over),
        (PrefillScheduler, "let_go_of_the_arrived", _let_go_when_sent),
        (PrefillResults, "process_extend", _send_without_the_cached_part),
        (DecodeDepartures, "requeue", _copy_one_token_less),
        (DecodeScheduler, "resume_retracted", _resume_without_copying),
        (PdEngine, "settle_rooms", _tell_nobody),
    ],
    ids=lambda value: getattr(value, "__name__", value).strip("_"),
)
def test_the_gauntlet_finds(owner, name, mistake, expected, monkeypatch):
    monkeypatch.setattr(owner, name, mistake)
    with pytest.raises((AssertionError, ScriptedError)):
        _run(expected)

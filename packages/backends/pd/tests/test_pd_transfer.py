"""The transfer as an actor: held, stepped, delayed, out of order, lost, repeated and late."""

from __future__ import annotations

import pytest
from scripted_backend_pd import Prompt, advance_to_pd_stage, outputs_of_one_engine, pair_kwargs
from scripted_chunked import run_until_all_finished, run_until_finished
from scripted_core.errors import ConfigError
from scripted_core.views import PdStage, Side
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="pd", runner_config="cpu")

_KWARGS = pair_kwargs(page_size=4)
pytestmark = [
    pytest.mark.scripted_requires("pd_prefill", "pd_decode"),
    pytest.mark.scripted(**_KWARGS),
]
_LONG = Prompt(250, seed=1)
_OTHERS = (Prompt(90, seed=2), Prompt(130, seed=3))


@pytest.fixture(scope="module")
def expected():
    """What one engine answers that does both."""
    return outputs_of_one_engine((_LONG, *_OTHERS), _KWARGS)


def _all_chunks_pending(t, r):
    t.transfer.hold()
    while not any(chunk.is_last for chunk in t.transfer.pending_of(r)):
        yield


def test_a_held_transfer_is_stepped_chunk_by_chunk(t, expected):
    r = _LONG.start(t)
    yield from _all_chunks_pending(t, r)
    chunks = t.transfer.pending_of(r)
    assert [(chunk.start, chunk.end) for chunk in chunks] == [
        (0, 64),
        (64, 128),
        (128, 192),
        (192, 250),
    ]
    for left in (3, 2, 1, 0):
        t.transfer.step()
        yield
        assert len(t.transfer.pending) == left
        yield
        assert len(t.transfer.pending) == left, "nothing moves by itself"
    assert t.transfer.delivered == 4
    t.transfer.resume()
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]


def test_a_held_transfer_is_no_standstill(t, expected):
    r = _LONG.start(t)
    yield from _all_chunks_pending(t, r)
    for _ in range(100):
        yield
    assert t.transfer.stage(r) is PdStage.TRANSFERRING
    t.transfer.resume()
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (1, 0, 3, 2), (3, 0, 1, 2)])
def test_chunks_may_arrive_in_any_order(t, order, expected):
    r = _LONG.start(t)
    yield from _all_chunks_pending(t, r)
    chunks = t.transfer.pending_of(r)
    wanted = [chunks[i] for i in order]
    t.transfer.reorder(wanted)
    yield
    assert [chunk.number for chunk in t.transfer.pending] == [chunk.number for chunk in wanted]
    for _ in order:
        assert t.transfer.stage(r) is PdStage.TRANSFERRING
        t.transfer.step()
        yield
    assert t.transfer.stage(r) is PdStage.TRANSFERRED
    t.transfer.resume()
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]


def test_a_delayed_chunk_is_overtaken(t, expected):
    handles = [prompt.start(t) for prompt in (_LONG, *_OTHERS)]
    t.transfer.hold()
    while not t.transfer.pending_of(handles[0]):
        yield
    first = t.transfer.pending_of(handles[0])[0]
    t.transfer.delay(first, iterations=30)
    t.transfer.resume()
    yield
    while any(not handle.finished for handle in handles[1:]):
        assert t.transfer.stage(handles[0]) not in (PdStage.TRANSFERRED, PdStage.DECODING)
        yield
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected


@pytest.mark.parametrize("which", [0, 1, 3])
def test_a_lost_chunk_fails_its_request_and_no_other(t, which, expected):
    handles = [prompt.start(t) for prompt in (_LONG, *_OTHERS)]
    yield from _all_chunks_pending(t, handles[0])
    t.transfer.drop(t.transfer.pending_of(handles[0])[which])
    t.transfer.resume()
    yield from run_until_all_finished(handles)
    assert handles[0].status == "aborted"
    assert "KV transfer failed" in handles[0].finish_reason.message
    assert [handle.output_ids for handle in handles[1:]] == expected[1:]
    while not t.is_fully_idle:
        yield
    assert not any(t.get_all_node_lock_refs().values())


@pytest.mark.parametrize("iterations", [0, 1, 40])
def test_a_chunk_that_comes_twice_is_taken_once(t, iterations, expected):
    handles = [prompt.start(t) for prompt in (_LONG, *_OTHERS)]
    yield from _all_chunks_pending(t, handles[0])
    for chunk in t.transfer.pending_of(handles[0]):
        t.transfer.duplicate(chunk, iterations=iterations)
    t.transfer.resume()
    yield from run_until_all_finished(handles)
    for _ in range(iterations):
        yield
    assert [handle.output_ids for handle in handles] == expected
    assert len(t.transfer.rejected) == 4
    assert t.is_fully_idle


def test_a_chunk_that_comes_after_an_abort_touches_nobody(t, expected):
    victim = _LONG.start(t)
    yield from _all_chunks_pending(t, victim)
    for chunk in t.transfer.pending_of(victim):
        t.transfer.delay(chunk, iterations=6)
    t.transfer.resume()
    yield
    t.abort(victim)
    yield
    # Others get the victim's pages in both engines before its chunks arrive.
    handles = [prompt.start(t) for prompt in _OTHERS]
    yield from run_until_all_finished(handles)
    assert [handle.output_ids for handle in handles] == expected[1:]
    assert len(t.transfer.rejected) == 4
    assert all("has ended" in why for why in t.transfer.rejected)


def test_a_chunk_from_before_a_retraction_is_stale(t, expected):
    r = _LONG.start(t)
    t.transfer.hold()
    while len(t.transfer.pending_of(r)) < 2:
        yield
    t.prefill.pause_generation(mode="retract")
    yield
    t.prefill.continue_generation()
    t.transfer.resume()
    yield from run_until_finished(r)
    assert r.output_ids == expected[0]
    assert len(t.transfer.rejected) == 2
    assert all("started over" in why for why in t.transfer.rejected)


_TAKE_A_HANDLE = {
    "prefill.abort": lambda t, x: t.prefill.abort(x),
    "prefill.view": lambda t, x: t.prefill.view(x),
    "decode.status": lambda t, x: t.decode.status(x),
    "transfer.stage": lambda t, x: t.transfer.stage(x),
    "transfer.pending_of": lambda t, x: t.transfer.pending_of(x),
    "advance_to_pd_stage": lambda t, x: next(advance_to_pd_stage(t, x, PdStage.DECODING)),
}


@pytest.mark.parametrize("call", _TAKE_A_HANDLE)
def test_what_is_no_request_handle_is_refused_by_name(t, call):
    for wrong in ("x", None, 3):
        with pytest.raises(ConfigError, match=f"^{call}: {wrong!r} is not a request handle") as no:
            _TAKE_A_HANDLE[call](t, wrong)
        assert "start_req" in no.value.hint
    yield


@pytest.mark.parametrize("stage", ["transferring", "decoding"])
def test_a_stage_may_be_named_by_its_value(t, stage):
    r = _LONG.start(t)
    yield from advance_to_pd_stage(t, r, stage)
    assert t.transfer.stage(r) == stage
    t.transfer.resume()
    with pytest.raises(ConfigError, match="'sideways' is no stage"):
        next(advance_to_pd_stage(t, r, "sideways"))
    yield from run_until_finished(r)


def test_what_is_no_list_of_chunks_is_not_reordered(t):
    r = _LONG.start(t)
    yield from _all_chunks_pending(t, r)
    before = t.transfer.pending
    for wrong in (None, before[0], 1, []):
        with pytest.raises(ConfigError, match="is not a list of pending chunks") as no:
            t.transfer.reorder(wrong)
        assert "t.transfer.pending" in no.value.hint
    t.transfer.reorder(before[::-1])
    yield
    assert [chunk.number for chunk in t.transfer.pending] == [one.number for one in before[::-1]]
    t.transfer.resume()
    yield from run_until_finished(r)


def test_what_is_not_pending_is_refused_by_name(t):
    with pytest.raises(ConfigError, match="KV chunk 7 is not pending"):
        t.transfer.drop(7)
    r = _LONG.start(t)
    yield from advance_to_pd_stage(t, r, PdStage.TRANSFERRING)
    chunk = t.transfer.pending[0]
    with pytest.raises(ConfigError, match="names a chunk twice"):
        t.transfer.reorder([chunk, chunk])
    with pytest.raises(ConfigError, match="iterations"):
        t.transfer.delay(chunk, iterations=0)
    with pytest.raises(ConfigError, match="chunks"):
        t.transfer.step(0)
    t.transfer.resume()
    yield from run_until_finished(r)


def test_what_happens_to_kv_between_forward_and_transfer_shows_in_the_output(t):
    scheduler = t.engine.side(Side.PREFILL).scheduler
    prompt = Prompt(60, seed=8)  # one chunk: no later one reads what is perturbed
    clean = prompt.start(t)
    yield from run_until_finished(clean)
    t.prefill.flush_cache()
    yield

    def perturb(batch):
        slots = scheduler.slots_of(batch.reqs[0])[:2]
        kv = scheduler.model.kv
        kv.write(slots, kv.read(slots)[..., ::-1] + 1)

    scheduler.after_forward.append(perturb)
    try:
        perturbed = prompt.start(t)
        yield from run_until_finished(perturbed)
    finally:
        scheduler.after_forward.clear()
    # The first token comes of the forward itself, the others of what was sent.
    assert perturbed.output_ids[0] == clean.output_ids[0]
    assert perturbed.output_ids[1:] != clean.output_ids[1:]

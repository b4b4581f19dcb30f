"""Mixed chunks: a chunk of a prompt and the decodes of others in one batch; on the LoRA server."""

from __future__ import annotations

import pytest
from scripted_backend_single import (
    CHUNK_TOKENS,
    lora_device_kwargs,
    require_at_rest,
    settle,
    undisturbed_output,
)
from scripted_chunked import (
    advance_to_decode_step,
    advance_to_nth_chunk,
    run_until_all_finished,
)
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch

register_cpu_ci(est_time=10, stage="single-sglang", runner_config="cpu")

models = pytest.importorskip("scripted_models", reason="scripted-models is not installed")

pytestmark = [
    pytest.mark.skipif(
        launch.check_usable() is not None,
        reason=f"needs the capability 'an installed SGLang': {launch.check_usable()}",
    ),
    pytest.mark.parametrize("scripted_backend", ["sglang"], indirect=True),
    pytest.mark.scripted(**lora_device_kwargs(engine="sglang", model=models.checkpoint("tiny"))),
]

_LONG = {"prompt_len": 4 * CHUNK_TOKENS, "seed": 2, "max_new_tokens": 6}
_SHORT = {"prompt_len": 10, "seed": 1, "max_new_tokens": 30}


def _both(t):
    """A request that decodes, then one of a long prompt."""
    short = t.start_req(**_SHORT, ignore_eos=True)
    yield from advance_to_decode_step(short, 2)
    return short, t.start_req(**_LONG, ignore_eos=True)


def _alone(t):
    outputs = []
    for one in (_SHORT, _LONG):
        outputs.append((yield from undisturbed_output(t, **one)))
    return outputs


def test_a_decoding_request_goes_on_while_a_prompt_is_chunked(t):
    alone = yield from _alone(t)
    before = len(t.batch_log)
    short, long = yield from _both(t)
    had = len(short.output_ids)
    yield from advance_to_nth_chunk(long, 3)
    assert len(short.output_ids) >= had + 2, "it waited for the chunks"
    mixed = [record for record in t.batch_log[before:] if record.mode == "mixed"]
    assert len(mixed) >= 3
    for record in mixed:
        assert set(record.rids) == {short.rid, long.rid}
        assert record.extend_rids == (long.rid,)
    yield from run_until_all_finished([short, long])
    assert [short.output_ids, long.output_ids] == alone
    yield from settle(t)
    require_at_rest(t)


def test_the_composition_of_a_mixed_batch(t):
    short, long = yield from _both(t)
    yield from advance_to_nth_chunk(long, 2)
    assert t.last_batch_forward_mode == "mixed"
    composition = t.batch_composition()
    assert composition["prefill"] == composition["chunked"] == [long.rid]
    assert composition["decode"] == [short.rid]
    assert long.is_chunking
    assert not short.is_chunking
    yield from run_until_all_finished([short, long])
    assert short.chunks_done == 0, "a decode in a mixed batch was counted as a chunk"
    # What the decodes take of a chunk's tokens makes the prompt need one more.
    assert long.chunks_done in (4, 5)


@pytest.mark.parametrize("mode", ["retract", "in_place"])
def test_a_pause_between_mixed_batches_keeps_both_outputs(t, mode):
    alone = yield from _alone(t)
    short, long = yield from _both(t)
    yield from advance_to_nth_chunk(long, 2)
    t.pause_generation(mode=mode)
    yield
    batches = len(t.batch_log)
    yield
    assert len(t.batch_log) == batches
    t.continue_generation()
    yield from run_until_all_finished([short, long])
    assert [short.output_ids, long.output_ids] == alone


@pytest.mark.parametrize("victim", ["short", "long"])
def test_an_abort_in_a_mixed_batch_leaves_the_other(t, victim):
    alone = yield from _alone(t)
    short, long = yield from _both(t)
    yield from advance_to_nth_chunk(long, 2)
    doomed, other, expected = (
        (short, long, alone[1]) if victim == "short" else (long, short, alone[0])
    )
    t.abort(doomed)
    yield from run_until_all_finished([short, long])
    assert doomed.status == "aborted"
    assert other.output_ids == expected
    yield from settle(t)
    require_at_rest(t)

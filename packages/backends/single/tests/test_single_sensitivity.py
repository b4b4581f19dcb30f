"""Whether a wrong KV slot shows in the output at all: what a comparison of outputs rests on."""

from __future__ import annotations

import random

import pytest
from scripted_backend_single import engine_axes, flush, settle, single_device_kwargs
from scripted_chunked import advance_to_decode_step, run_until_finished
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=15, stage="single", runner_config="cpu")
register_cpu_ci(est_time=120, stage="single-sglang", runner_config="cpu")

pytestmark = [
    pytest.mark.scripted(**single_device_kwargs()),
    pytest.mark.scripted_requires("sglang_names", "prefix_cache"),
    # It breaks the KV on purpose. What it must not break, it checks itself.
    pytest.mark.scripted_options(check_invariants=False),
]

_PROMPTS = 50
_TRIALS_PER_PROMPT = 10
_NEW_TOKENS = 32
_SEEN_AT_LEAST = 0.99
# SGLang's stand-in is drawn from a seed, and no checkpoint that was made for this.
_SEEN_AT_LEAST_BY_A_STAND_IN = 0.75
# Two slots of one context in each other's place are no mistake to a transformer: keys know where they
# are from. Slots of another token, of another prompt and of nobody are.
_CORRUPTIONS = ("copy", "foreign", "zero")


def pytest_generate_tests(metafunc):
    if "model" not in metafunc.fixturenames:
        return
    config = metafunc.config
    asked = config.getoption("scripted_backend") or config.getini("scripted_backend") or [None]
    params = []
    for axis in engine_axes(asked[0]):
        for choice in axis:
            if "model_path" in choice.kwargs:
                marks = [pytest.mark.scripted(**choice.kwargs)]
                if choice.missing is not None:
                    marks.append(pytest.mark.skip(reason=choice.missing))
                params.append(pytest.param(choice.label, marks=marks))
    metafunc.parametrize("model", params or ["default"])


class _ReferenceRows:
    """Where the reference engine keeps a request's row."""

    def row_of(self, req):
        return req.req_pool_idx


class _HashSlots(_ReferenceRows):
    """Slots of the `hash` model: token, position and chain of each."""

    def __init__(self, scheduler):
        self._slots = scheduler.token_to_kv_pool.slots

    def read(self, slot):
        return self._slots[slot].copy()

    def write(self, slot, content):
        self._slots[slot] = content

    def nothing(self, slot):
        return (0, 0, 0)


class _TransformerSlots(_ReferenceRows):
    """Slots of the reference engine's transformer: keys and values of all layers."""

    def __init__(self, scheduler):
        self._kv = scheduler.model.kv

    def read(self, slot):
        return self._kv.read(slot)

    def write(self, slot, content):
        self._kv.write(slot, content)

    def nothing(self, slot):
        return self._kv.read(slot) * 0


class _SglangSlots:
    """Slots of SGLang's pool of keys and values."""

    def __init__(self, scheduler):
        pool = scheduler.token_to_kv_pool_allocator.get_kvcache()
        layers = range(scheduler.model_config.num_hidden_layers)
        self._buffers = [pool.get_key_buffer(layer) for layer in layers]
        self._buffers += [pool.get_value_buffer(layer) for layer in layers]

    def row_of(self, req):
        return getattr(req, "kv", req).req_pool_idx  # up to 0.5.15 the request itself has it

    def read(self, slot):
        return [buffer[slot].clone() for buffer in self._buffers]

    def write(self, slot, content):
        for buffer, part in zip(self._buffers, content, strict=True):
            buffer[slot] = part

    def nothing(self, slot):
        return [buffer[slot] * 0 for buffer in self._buffers]


def _slots_of(t, model):
    if t.engine.name == "sglang":
        return _SglangSlots(t.scheduler)
    return {"hash": _HashSlots, "tiny": _TransformerSlots}[model](t.scheduler)


def _slot(t, slots, handle, rng):
    """A slot of the request's context and another one."""
    view = t.view(handle.rid)
    row = t.scheduler.req_to_token_pool.req_to_token[slots.row_of(handle.req)]
    # The latest token has no KV yet; with overlap the one before it may be on its way.
    computed = view.prompt_len + max(0, view.output_len - 2)
    return (int(row[position]) for position in rng.sample(range(computed), 2))


def _corrupt(t, slots, handle, *, how, foreign, rng):
    """Damage the KV of one token of the request's context, as a scheduler's mistake would."""
    wrong, other = _slot(t, slots, handle, rng)
    match how:
        case "copy":
            slots.write(wrong, slots.read(other))
        case "foreign":
            slots.write(wrong, foreign)
        case "zero":
            slots.write(wrong, slots.nothing(wrong))


def _start(t, *, prompt_len, seed):
    return t.start_req(
        prompt_len=prompt_len, seed=seed, max_new_tokens=_NEW_TOKENS, ignore_eos=True
    )


def _shows(t, slots, prompt, *, expected, how, foreign, rng):
    """Corrupt one slot of a running request; whether any later token is another one."""
    yield from flush(t)
    handle = _start(t, **prompt)
    yield from advance_to_decode_step(handle, rng.randint(1, 4))
    before = handle.output_ids
    assert before == expected[: len(before)], "the corruption of an earlier trial is still there"
    _corrupt(t, slots, handle, how=how, foreign=foreign, rng=rng)
    while not handle.finished and handle.output_ids == expected[: len(handle.output_ids)]:
        yield
    shown = handle.output_ids != expected
    if not handle.finished:
        t.abort(handle)
    yield from settle(t)
    return shown


def _undisturbed(t, slots, prompt, rng):
    """The output of a prompt, and the content of some slot of it for the next prompt's trials."""
    yield from flush(t)
    handle = _start(t, **prompt)
    yield from advance_to_decode_step(handle, 3)
    content = slots.read(next(_slot(t, slots, handle, rng)))
    yield from run_until_finished(handle)
    return handle.output_ids, content


def test_any_one_wrong_slot_shows_in_the_output(t, model):
    slots = _slots_of(t, model)
    shown = {how: [] for how in _CORRUPTIONS}
    somebody = {"prompt_len": 64, "seed": _PROMPTS}
    _, foreign = yield from _undisturbed(t, slots, somebody, random.Random(_PROMPTS))
    for number in range(_PROMPTS):
        rng = random.Random(number)
        prompt = {"prompt_len": rng.randint(2, 200), "seed": number}
        expected, for_the_next = yield from _undisturbed(t, slots, prompt, rng)
        for trial in range(_TRIALS_PER_PROMPT):
            how = _CORRUPTIONS[(number + trial) % len(_CORRUPTIONS)]
            did = yield from _shows(
                t, slots, prompt, expected=expected, how=how, foreign=foreign, rng=rng
            )
            shown[how].append(did)
        foreign = for_the_next
    yield from flush(t)
    trials = [did for of_one in shown.values() for did in of_one]
    assert len(trials) >= 500
    rates = {how: sum(of_one) / len(of_one) for how, of_one in shown.items()}
    at_least = _SEEN_AT_LEAST_BY_A_STAND_IN if model == "default" else _SEEN_AT_LEAST
    assert sum(trials) >= at_least * len(trials), rates

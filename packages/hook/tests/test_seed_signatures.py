"""The names and signatures that scripts written for SGLang's own harness rely on."""

from __future__ import annotations

import ast
import inspect

import pytest
import scripted_chunked
import scripted_core
import scripted_exhausters
import scripted_hook
from scripted_core.context.req_starter import ScriptedContextReqStarter
from scripted_core.wire import messages
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_START_REQ = (
    "start_req(self, *, prompt_len, max_new_tokens=8, rid=None, ignore_eos=False, priority=None, "
    "dp_rank=None, prompt_token=1, return_logprob=False, logprob_start_len=None, "
    "top_logprobs_num=None, stop_token_ids=None, temperature=None, lora_path=None)"
)
_SIGNATURES = {
    scripted_core.ScriptedContext: [
        "__init__(self, *, scheduler_hook, tokenizer_recv_proxy, http_poster)",
        _START_REQ,
        "pause_generation(self, *, mode)",
        "continue_generation(self, *, torch_empty_cache=False)",
        "abort_all(self)",
        "abort(self, handle, *, await_arrival=True)",
        "flush_cache(self)",
        "evict_radix(self, *, prefix_tokens)",
        "exhaust_kv(self, *, leave_pages)",
        "exhaust_lock_refs(self, *, leave_refs)",
        "get_all_node_hit_counts(self)",
        "get_all_node_lock_refs(self)",
        "find_req_by_rid(self, rid)",
        "is_finished(self, rid)",
        "is_chunking(self, rid)",
        "status(self, rid)",
        "remaining_prompt_tokens(self, rid)",
        "list_active_reqs(self)",
        "chunks_done(self, rid)",
        "chunked_parks(self, rid)",
        "batch_composition(self)",
        "engine_stats(self)",
    ],
    ScriptedContextReqStarter: ["__init__(self, context)", _START_REQ],
    scripted_core.ScriptedReqHandle: ["__init__(self, rid, context)"],
    scripted_core.ScriptedHttpServer: [
        "start(**engine_kwargs)",
        "execute_script(self, fn, *, args=(), timeout_s=None)",
        "shutdown(self)",
    ],
    scripted_hook.ScriptedSchedulerHook: [
        "__init__(self, *, scheduler, tokenizer_recv_proxy)",
        "step(self)",
        "on_run_batch(self, batch)",
    ],
    scripted_hook.ScriptedTokenizerRecvProxy: [
        "__init__(self, *, underlying)",
        "recv_pyobj(self, flags=0)",
        "wait_until_arrived(self, predicate, *, timeout_s, description)",
    ],
    scripted_hook.BackgroundHttpPoster: [
        "__init__(self)",
        "submit_coro(self, coro)",
        "post(self, url, json)",
        "close(self)",
    ],
    scripted_exhausters.ScriptedKvPoolExhauster: [
        "__init__(self, scheduler)",
        "exhaust(self, *, leave_pages)",
        "release(self)",
    ],
    scripted_exhausters.ScriptedLockRefExhauster: [
        "__init__(self, scheduler)",
        "exhaust(self, *, leave_refs)",
        "release(self)",
    ],
    scripted_core: ["resolve_fn(path)"],
    scripted_chunked: [
        "base_engine_kwargs(*, model_path=SMALL_MODEL, chunked_prefill_size=256, **overrides)",
        "run_until(handle, predicate, *, max_steps=400)",
        "run_until_finished(handle, *, max_steps=400)",
        "run_until_all_finished(handles, *, max_steps=400)",
        "warmup_radix(t, prompt_tokens, *, max_steps=400)",
        "exhaust_row_pool(t, *, leave_rows, max_steps=400)",
        "advance_to_nth_chunk(r, target_chunk, *, max_steps=400)",
        "advance_to_decode_step(r, target_output_len, *, max_steps=400)",
        "advance_to_lifecycle_stage(r, stage, *, num_middle_chunks, max_new_tokens, max_steps)",
    ],
}
_PROPERTIES = {
    scripted_core.ScriptedContext: [
        "scheduler",
        "is_idle",
        "is_fully_idle",
        "last_batch_forward_mode",
    ],
    scripted_core.ScriptedReqHandle: [
        "req",
        "finished",
        "is_chunking",
        "chunks_done",
        "status",
        "remaining_prompt_tokens",
        "kv_pages",
        "lock_refs",
    ],
}


def _shown(text):
    """A signature as the seeds show it; a class is called, so its ``__init__`` is its signature."""
    names = {"SMALL_MODEL": scripted_chunked.SMALL_MODEL}
    exec(f"def {text}: ...", names)
    name = ast.parse(f"def {text}: ...").body[0].name
    return name, inspect.signature(names[name])


@pytest.mark.parametrize(
    ("owner", "text"),
    [(owner, text) for owner, texts in _SIGNATURES.items() for text in texts],
    ids=lambda value: value.partition("(")[0] if isinstance(value, str) else value.__name__,
)
def test_a_call_as_shown_fits(owner, text):
    name, shown = _shown(text)
    function = vars(owner)[name] if inspect.isclass(owner) else getattr(owner, name)
    is_classmethod = isinstance(function, classmethod)
    ours = inspect.signature(function.__func__ if is_classmethod else function).parameters
    for wanted in shown.parameters.values():
        assert wanted.name in ours, f"{name}: {wanted.name} is gone"
        found = ours[wanted.name]
        assert found.kind is wanted.kind, f"{name}: {wanted.name} is {found.kind.description}"
        if wanted.default is not wanted.empty:
            assert found.default == wanted.default
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for added in [p for p in ours.values() if p.name not in shown.parameters]:
        is_bound = is_classmethod and added.name == "cls"
        assert is_bound or added.default is not added.empty or added.kind in variable, (
            f"{name}: {added.name} has to have a default"
        )


@pytest.mark.parametrize(
    ("owner", "name"),
    [(owner, name) for owner, names in _PROPERTIES.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_property_as_shown_is_one(owner, name):
    assert isinstance(vars(owner)[name], property)


def test_constants():
    assert scripted_chunked.DEFAULT_CHUNK_SIZE == 256
    assert scripted_chunked.DEFAULT_MAX_STEPS == 400
    assert scripted_chunked.SMALL_MODEL == "Qwen/Qwen3-0.6B"
    assert scripted_chunked.LIFECYCLE_STAGES == (
        "first_chunk",
        "last_chunk",
        "first_decode",
        "mid_decode",
        "last_decode",
    )
    assert scripted_core.ScriptedTestCase.ENGINE_KWARGS == {}


def test_messages_and_records_are_there_by_name():
    for name in ("RunScript", "Shutdown", "HookReady", "ScriptSucceeded", "ScriptFailed"):
        assert inspect.isclass(vars(messages)[name])
        assert getattr(scripted_hook, name, None) is vars(messages)[name], name
    assert inspect.isclass(scripted_hook.OutOfBandError)
    fields = scripted_hook.ScriptedBatchRecord.__struct_fields__
    assert fields[:5] == ("forward_iter", "mode", "rids", "extend_rids", "chunked_rid")

"""SGLang's own KV canary on a real pair: the seeds' perturbation, found by its decode server.

It needs triton, which is interpreted on a CPU: hatch run sglang-canary:test.
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from scripted_backend_pd import Prompt, outputs_of_one_engine, pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_chunked import run_until_all_finished
from scripted_core import ScriptedHttpServer
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import launch, own_canary
from scripted_sglang.own_canary import OwnCanary, own_canary_environment
from scripted_sglang.pair_transport import why_no_transfer

register_cpu_ci(est_time=5, stage="single-sglang", runner_config="cpu")

# The prefill server ends at its first violation; the decode server counts. A prompt is one chunk.
_KWARGS = pair_kwargs(
    model_path="tiny",
    chunked_prefill_size=1024,
    kv_canary_real_data="all",
    prefill_kwargs={"kv_canary": "raise"},
    decode_kwargs={"kv_canary": "log"},
)
_PERTURB = {
    "SGLANG_KV_CANARY_PERTURB_REAL_KV_POST_FORWARD_PROB": "1",
    "SGLANG_KV_CANARY_PERTURB_TARGET_GROUP": "full",
    "SGLANG_KV_CANARY_PERTURB_WARMUP_STEPS": "0",
}
_ROUNDS = 10


def _missing():
    why = launch.check_usable() or why_no_transfer()
    if why is None and find_spec("triton") is None:
        why = "triton is not installed"
    return None if why is None else f"needs the capability 'SGLang's own KV canary': {why}"


_needs_canary = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))


def _nothing_is_wrong(t, expected):
    canary = OwnCanary(t)
    before = canary.forwards
    yield from scripts.crowd_answers(t, expected)
    same = [Prompt(40, seed=5).start(t) for _ in range(4)]
    yield from run_until_all_finished(same)
    assert canary.violations_total == 0, canary.since(0)
    ran = canary.launches()
    assert canary.forwards > before
    assert ran["head_k_full"] == ran["tail_k_full"] > 0


def _surfaces_every_time(t, first_seed):
    """Each round in one script, so that the counter is read at each forward."""
    canary = OwnCanary(t)
    for number in range(_ROUNDS):
        found, forwards = canary.violations_total, canary.forwards
        handles = [Prompt(40, seed=first_seed + 4 * number + i).start(t) for i in range(4)]
        while canary.forwards == forwards:
            assert canary.violations_total == found
            assert not all(handle.finished for handle in handles)
            yield
        assert canary.forwards == forwards + 1
        new = canary.since(found)
        assert new, f"round {number}: the first forward of the decode server has found nothing"
        assert {one.reasons for one in new} == {("verify_real_kv_hash",)}
        assert {one.launch.rpartition("_")[2] for one in new} == {"full"}
        assert all(0 <= one.position < 40 for one in new)
        yield from run_until_all_finished(handles)


@_needs_canary
def test_a_clean_pair_has_nothing_wrong():
    expected = outputs_of_one_engine(scripts.CROWD, pair_kwargs(model_path="tiny"))
    with ScriptedHttpServer.start(backend="sglang", **_KWARGS) as pair:
        pair.execute_script(_nothing_is_wrong, args=(expected,))


@_needs_canary
def test_what_breaks_behind_a_prefill_is_found_by_the_first_forward_of_the_decode_server():
    kwargs = {**_KWARGS, "prefill_kwargs": {"kv_canary": "raise", "env": _PERTURB}}
    with ScriptedHttpServer.start(backend="sglang", **kwargs) as pair:
        pair.execute_script(_surfaces_every_time, args=(100,))
        # It reads an outcome one forward later: after another script it would have ended.
        pair.execute_script(_surfaces_every_time, args=(500,))


def test_without_triton_it_is_refused(monkeypatch):
    monkeypatch.setattr(own_canary, "needed_standins", lambda: ("triton",))
    with pytest.raises(ConfigError, match="kv_canary='log': SGLang's own KV canary needs triton"):
        own_canary_environment({"kv_canary": "log"}, on_cpu=True)
    assert own_canary_environment({"kv_canary": "log"}, on_cpu=False) == {}
    assert own_canary_environment({"kv_canary": "none"}, on_cpu=True) == {}
    monkeypatch.setattr(own_canary, "needed_standins", lambda: ())
    assert own_canary_environment({"kv_canary": "log"}, on_cpu=True) == {"TRITON_INTERPRET": "1"}

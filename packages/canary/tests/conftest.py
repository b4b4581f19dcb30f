"""A script that breaks a slot, two rows and a token, and a session that has to find all of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from scripted_core import InProcessSession


def broken_in_every_way(t, found):
    rs = [t.start_req(prompt_len=40, seed=i, max_new_tokens=40, ignore_eos=True) for i in (1, 2)]
    while len(rs[1].output_ids) < 3:
        yield
    assert t.canary.violations_total == 0
    broken = t.perturb.flip_used_slot(handle=rs[0], seed=5)
    yield
    yield
    first = t.canary.violations.last(9)[0]
    assert (first.slot, first.rid, first.step) == (broken.slot, rs[0].rid, broken.done)
    found.append(first.reason.value)
    broken.restore()
    yield
    for perturb in (t.perturb.swap_rows, t.perturb.swap_next_token):
        before = t.canary.violations_total
        done = perturb(seed=1)
        yield
        yield
        new = t.canary.violations.last(t.canary.violations_total - before)
        found.append({one.reason.value for one in new if one.step == done.done})


@pytest.fixture
def everything_is_found() -> Callable[..., None]:
    """Run it on the model `tiny`, whose canary sees what is wrong a forward later on a device."""
    return _everything_is_found


def _everything_is_found(**kwargs):
    found = []
    with InProcessSession.start(
        backend="reference", model_path="tiny", max_total_tokens=512, context_length=128,
        kv_canary="log", kv_canary_real_data="all", **kwargs,
    ) as session:  # fmt: skip
        session.execute_script(broken_in_every_way, args=(found,))
    assert found[0] == "verify_real_kv_hash"
    assert found[1] <= {"verify_token", "verify_chain_hash", "verify_position"}
    assert found[1]
    assert found[2] == {"write_token"}

"""The parts from which an adapter of an engine in the same process is put together."""

from __future__ import annotations

import pytest
from scripted_core.errors import CapabilityMissing, ConfigError, ExhaustError
from scripted_core.ops import AbortAll
from scripted_core.ports import port_of
from scripted_core.testing import FakeEngine
from scripted_core.views import OwnerKind
from scripted_hook import FreeListPool, InProcessDefaults, InProcessEngine
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def pool(pages=5):
    free = list(range(1, pages + 1))
    return free, FreeListPool(free=free, total=pages, page_size=16, first_page=1)


def test_a_hold_comes_off_the_engines_own_list_and_goes_back():
    free, kv = pool()
    hold = kv.hold(3)
    assert (len(free), kv.available, kv.held, hold.count) == (2, 2, 3, 3)
    with pytest.raises(ExhaustError, match="4 pages were asked for and 2 are free"):
        kv.hold(4)
    kv.release(hold)
    assert sorted(free) == [1, 2, 3, 4, 5]
    with pytest.raises(ExhaustError, match="no such hold"):
        kv.release(hold)


def test_the_audit_has_every_page_once():
    free, kv = pool()
    taken = [free.pop(), free.pop()]
    kv.hold(1)
    audit = kv.audit({"r1": taken}, is_idle=False)
    (of_pool,) = audit.pools
    assert (of_pool.first_page, of_pool.num_pages, audit.rows) == (1, 5, None)
    owners = {claim.owner: claim.kind for claim in of_pool.claims}
    assert owners == {"free": OwnerKind.FREE, "held": OwnerKind.HELD, "r1": OwnerKind.REQUEST}
    assert sorted(int(page) for claim in of_pool.claims for page in claim.pages) == [1, 2, 3, 4, 5]


class Bare(InProcessDefaults):
    name = "bare"


def test_what_an_engine_lacks_is_said():
    adapter = Bare()
    assert (adapter.rows, adapter.prefix_tree, adapter.chunked_rids()) == (None, None, ())
    assert list(adapter.pids()) == ["engine"]
    with pytest.raises(CapabilityMissing, match="'bare' has no HTTP front"):
        adapter.control_http(AbortAll())
    with pytest.raises(NotImplementedError, match=r"Bare\.requests"):
        adapter.request("r1")


def test_an_engine_is_bound_until_it_is_closed():
    fake = FakeEngine()
    engine = InProcessEngine(adapter=fake, iterate=fake.iterate)
    fake.connect(engine.hook)
    assert port_of(fake.scheduler) is fake
    engine.iterate()
    assert fake.iterations == 1
    engine.close()
    engine.close()
    with pytest.raises(ConfigError, match="no scripted hook is attached"):
        port_of(fake.scheduler)

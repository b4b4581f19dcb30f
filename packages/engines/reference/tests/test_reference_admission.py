from __future__ import annotations

from typing import Any

import pytest
from scripted_reference.admission import PrefillAdder
from scripted_reference.args import SchedulePolicy
from scripted_reference.memory import PagedTokenAllocator, ReqToTokenPool
from scripted_reference.policy import order_waiting
from scripted_reference.radix import RadixCache
from scripted_reference.request import Req, SamplingParams
from scripted_reference.retract import NewTokenRatio, pick_victim
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="reference", runner_config="cpu")


def make_req(rid: str, prompt: int | list[int], *, max_new_tokens: int = 10, **kwargs: Any) -> Req:
    ids = list(range(100, 100 + prompt)) if isinstance(prompt, int) else prompt
    return Req(
        rid=rid,
        origin_input_ids=ids,
        sampling_params=SamplingParams(max_new_tokens=max_new_tokens),
        max_new_tokens=max_new_tokens,
        eos_token_id=2,
        **kwargs,
    )


class Pools:
    def __init__(self, *, size: int, page_size: int = 1) -> None:
        self.allocator = PagedTokenAllocator(size=size, page_size=page_size)
        self.tree = RadixCache(
            req_to_token_pool=ReqToTokenPool(size=4, max_context_len=64),
            token_to_kv_pool_allocator=self.allocator,
            page_size=page_size,
        )

    def cache(self, tokens: list[int]) -> None:
        slots = self.allocator.alloc(len(tokens))
        assert slots is not None
        self.tree.insert(tokens, slots)

    def adder(self, **kwargs: Any) -> PrefillAdder:
        defaults: dict[str, Any] = {
            "running": (),
            "new_token_ratio": 0.5,
            "max_prefill_tokens": 1000,
            "chunk_tokens": None,
        }
        return PrefillAdder(tree_cache=self.tree, allocator=self.allocator, **(defaults | kwargs))


def test_a_request_must_fit_with_its_whole_future() -> None:
    # 20 tokens of prompt and 10 new ones take 29 slots: the last token is never fed back.
    assert Pools(size=29).adder().add_one_req(make_req("r", 20))
    assert not Pools(size=28).adder().add_one_req(make_req("r", 20))


def test_pages_are_counted_whole() -> None:
    assert Pools(size=32, page_size=16).adder().add_one_req(make_req("r", 20))
    adder = Pools(size=32, page_size=16).adder()
    assert not adder.add_one_req(make_req("r", 24))


def test_running_requests_keep_a_part_of_their_future() -> None:
    running = make_req("old", 10, max_new_tokens=41)
    running.kv_committed_len = 10
    for size, fits in ((49, True), (48, False)):
        adder = Pools(size=size).adder(running=[running], new_token_ratio=0.5)
        assert adder.add_one_req(make_req("r", 20)) is fits


def test_newcomers_of_one_batch_keep_all_of_it() -> None:
    adder = Pools(size=57).adder()
    assert adder.add_one_req(make_req("a", 20))
    assert not adder.add_one_req(make_req("b", 20))
    assert adder.can_run_list[0].rid == "a"


def test_what_the_tree_would_give_up_counts() -> None:
    pools = Pools(size=29)
    pools.cache(list(range(15)))
    assert pools.adder().add_one_req(make_req("r", 20))


def test_a_cached_prefix_is_locked_and_not_counted_twice() -> None:
    prompt = list(range(20))
    for size, fits in ((29, True), (28, False)):
        pools = Pools(size=size)
        pools.cache(prompt[:15])
        req = make_req("r", prompt)
        adder = pools.adder()
        assert adder.add_one_req(req) is fits
        assert pools.tree.protected_size() == (15 if fits else 0)
        assert len(req.prefix_indices) == (15 if fits else 0)
        if fits:
            assert req.extend_input_len == 5


def test_the_last_token_is_computed_even_if_cached() -> None:
    pools = Pools(size=100)
    pools.cache(list(range(20)))
    req = make_req("r", list(range(20)))
    assert pools.adder().add_one_req(req)
    assert req.extend_input_len == 1


def test_a_long_prompt_gets_what_is_left_of_the_chunk() -> None:
    pools = Pools(size=500)
    adder = pools.adder(chunk_tokens=64)
    first, second, third = (make_req(rid, [i, *range(100, 139)]) for i, rid in enumerate("abc"))
    assert adder.add_one_req(first)
    assert adder.add_one_req(second)
    assert (first.extend_input_len, second.extend_input_len) == (40, 24)
    assert adder.chunked_req is second
    assert not adder.add_one_req(third)


def test_a_chunk_is_whole_pages() -> None:
    pools = Pools(size=512, page_size=16)
    adder = pools.adder(chunk_tokens=64)
    assert adder.add_one_req(make_req("a", list(range(35))))
    req = make_req("b", 40)
    assert adder.add_one_req(req)
    assert req.extend_input_len == 16
    crowded = pools.adder(chunk_tokens=64)
    assert crowded.add_one_req(make_req("c", list(range(200, 250))))
    assert not crowded.add_one_req(make_req("d", 40))
    assert crowded.chunked_req is None


def test_a_chunk_that_does_not_fit_parks_its_request() -> None:
    pools = Pools(size=40)
    req = make_req("r", 30, max_new_tokens=1)
    req.init_next_round_input()
    req.kv_committed_len = 10
    assert pools.allocator.alloc(31) is not None
    adder = pools.adder(chunk_tokens=10)
    assert not adder.add_chunked_req(req)
    assert adder.can_run_list == []
    pools.allocator.free(pools.allocator.free_pages[:0])
    roomy = Pools(size=40).adder(chunk_tokens=10)
    assert roomy.add_chunked_req(req)
    assert (req.extend_input_len, roomy.chunked_req) == (10, req)


def test_the_first_request_may_exceed_the_prefill_budget() -> None:
    adder = Pools(size=500).adder(max_prefill_tokens=30)
    assert adder.add_one_req(make_req("a", 40))
    assert not adder.add_one_req(make_req("b", 10))


@pytest.mark.parametrize("policy", list(SchedulePolicy))
def test_the_order_of_arrival_holds_among_equals(policy: SchedulePolicy) -> None:
    queue = [make_req(rid, 5) for rid in "abc"]
    order_waiting(queue, policy=policy, by_priority=True, tree_cache=Pools(size=50).tree)
    assert [req.rid for req in queue] == ["a", "b", "c"]


def test_higher_priority_first_and_none_last() -> None:
    tree = Pools(size=50).tree
    given = {"a": None, "b": 1, "c": 7, "d": 1, "e": -3}
    queue = [make_req(rid, 5, priority=priority) for rid, priority in given.items()]
    order_waiting(queue, policy=SchedulePolicy.FCFS, by_priority=False, tree_cache=tree)
    assert [req.rid for req in queue] == ["a", "b", "c", "d", "e"]
    order_waiting(queue, policy=SchedulePolicy.FCFS, by_priority=True, tree_cache=tree)
    assert [req.rid for req in queue] == ["c", "b", "d", "e", "a"]


def test_longest_cached_prefix_first() -> None:
    pools = Pools(size=50)
    pools.cache([1, 2, 3, 4])
    queue = [make_req("none", [9, 9]), make_req("some", [1, 2, 9]), make_req("most", [1, 2, 3, 4])]
    order_waiting(queue, policy=SchedulePolicy.LPM, by_priority=False, tree_cache=pools.tree)
    assert [req.rid for req in queue] == ["most", "some", "none"]


def test_the_victim_has_the_fewest_tokens_then_the_longest_prompt_then_came_last() -> None:
    reqs = [
        make_req(rid, length, arrival=i)
        for i, (rid, length) in enumerate([("a", 5), ("b", 9), ("c", 9), ("d", 20)])
    ]
    for req, outputs in zip(reqs, [1, 1, 1, 2], strict=True):
        req.output_ids = [0] * outputs
    assert pick_victim(reqs).rid == "c"


def test_the_ratio_decays_jumps_after_a_retraction_and_starts_over() -> None:
    ratio = NewTokenRatio()
    assert ratio.current == pytest.approx(0.7)
    for _ in range(700):
        ratio.decay()
    assert ratio.current == pytest.approx(0.7 * 0.14)
    kept = make_req("r", 5, max_new_tokens=100)
    kept.output_ids = [0] * 10
    ratio.after_retraction([kept])
    assert ratio.current == pytest.approx(0.3)
    ratio.after_retraction([])
    assert ratio.current == pytest.approx(0.3)
    ratio.reset()
    assert ratio.current == pytest.approx(0.7)
    assert NewTokenRatio(conservativeness=5).current == 1.0

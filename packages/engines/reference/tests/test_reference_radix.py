from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_reference.errors import LockRefError
from scripted_reference.memory import IntArray, PagedTokenAllocator, ReqToTokenPool
from scripted_reference.radix import RadixCache, TreeNode
from scripted_reference.tree_node import common_prefix_len
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="reference", runner_config="cpu")


def make_tree(*, page_size: int = 1, size: int = 256, disable: bool = False) -> RadixCache:
    return RadixCache(
        req_to_token_pool=ReqToTokenPool(size=4, max_context_len=64),
        token_to_kv_pool_allocator=PagedTokenAllocator(size=size, page_size=page_size),
        page_size=page_size,
        disable=disable,
    )


def put(tree: RadixCache, tokens: list[int], *, chunked: bool = False) -> IntArray:
    """Insert tokens with slots of their own, and free the duplicates as a request would."""
    allocator = tree.token_to_kv_pool_allocator
    slots = allocator.alloc(len(tokens))
    assert slots is not None
    allocator.free(slots[: tree.insert(tokens, slots, chunked=chunked)])
    return slots


def node_of(tree: RadixCache, tokens: list[int]) -> TreeNode:
    match = tree.match_prefix(tokens)
    assert len(match.indices) == len(tokens)
    return match.last_node


def keys(tree: RadixCache) -> list[tuple[int, ...]]:
    return [node.key for node in tree.nodes()]


def test_an_inserted_prefix_is_matched_with_its_slots() -> None:
    tree = make_tree()
    slots = put(tree, [1, 2, 3, 4])
    match = tree.match_prefix([1, 2, 3, 4, 5, 6])
    assert match.indices.tolist() == slots.tolist()
    assert match.last_node.key == (1, 2, 3, 4)
    assert tree.match_prefix([9, 1]).last_node is tree.root_node
    assert len(tree.match_prefix([]).indices) == 0


def test_a_match_that_ends_on_an_edge_splits_it() -> None:
    tree = make_tree()
    slots = put(tree, [1, 2, 3, 4])
    match = tree.match_prefix([1, 2, 7])
    assert match.indices.tolist() == slots[:2].tolist()
    assert keys(tree) == [(1, 2), (3, 4)]
    below = node_of(tree, [1, 2, 3, 4])
    assert below.parent is match.last_node
    assert below.value.tolist() == slots[2:].tolist()


def test_a_split_keeps_locks_and_hits() -> None:
    tree = make_tree()
    put(tree, [1, 2, 3, 4])
    whole = node_of(tree, [1, 2, 3, 4])
    tree.inc_lock_ref(whole)
    upper = tree.match_prefix([1, 2]).last_node
    assert (upper.lock_ref, whole.lock_ref) == (1, 1)
    assert (upper.hit_count, whole.hit_count) == (1, 1)
    assert tree.protected_size() == 4
    tree.dec_lock_ref(whole)
    assert (upper.lock_ref, tree.protected_size(), tree.evictable_size()) == (0, 0, 4)


def test_branches_share_their_prefix() -> None:
    tree = make_tree()
    first = put(tree, [1, 2, 3])
    second = put(tree, [1, 2, 8, 9])
    assert keys(tree) == [(1, 2), (3,), (8, 9)]
    assert tree.match_prefix([1, 2, 8, 9]).indices.tolist() == [*first[:2], *second[2:]]
    assert tree.evictable_size() == 5


def test_hits_count_inserts_but_not_chunks() -> None:
    tree = make_tree()
    put(tree, [1, 2], chunked=True)
    put(tree, [1, 2, 3, 4])
    put(tree, [1, 2, 3, 4, 5])
    assert [(node.key, node.hit_count) for node in tree.nodes()] == [
        ((1, 2), 2),
        ((3, 4), 2),
        ((5,), 1),
    ]


def test_locking_a_leaf_locks_its_path() -> None:
    tree = make_tree()
    put(tree, [1, 2, 3])
    put(tree, [1, 2, 8, 9])
    leaf, other = node_of(tree, [1, 2, 8, 9]), node_of(tree, [1, 2, 3])
    assert tree.inc_lock_ref(leaf) == -4
    assert tree.inc_lock_ref(leaf) == 0
    assert [node.lock_ref for node in tree.nodes()] == [2, 0, 2]
    assert (tree.protected_size(), tree.evictable_size()) == (4, 1)
    assert tree.evict(99) == 1
    assert other.key not in keys(tree)
    assert tree.dec_lock_ref(leaf) == 0
    assert tree.dec_lock_ref(leaf) == 4
    assert tree.root_node.lock_ref == 1


def test_unlocking_what_is_not_locked_is_an_error() -> None:
    tree = make_tree()
    put(tree, [1, 2])
    with pytest.raises(LockRefError, match="more often than it was locked"):
        tree.dec_lock_ref(node_of(tree, [1, 2]))
    assert tree.inc_lock_ref(tree.root_node) == 0
    assert tree.dec_lock_ref(tree.root_node) == 0


def test_eviction_takes_the_least_recently_used_leaf_first() -> None:
    tree = make_tree()
    for start in (10, 20, 30):
        put(tree, [start, start + 1])
    tree.match_prefix([10, 11])
    assert tree.evict(1) == 2
    assert keys(tree) == [(10, 11), (30, 31)]
    assert tree.token_to_kv_pool_allocator.available_size() == 256 - 4
    assert tree.evict(0) == 0


def test_eviction_goes_on_to_parents_that_became_leaves() -> None:
    tree = make_tree()
    put(tree, [1, 2, 3])
    put(tree, [1, 2, 4])
    assert tree.evict(4) == 4
    assert keys(tree) == []
    assert len(tree.all_values_flatten()) == 0


def test_evict_prefix_drops_that_subtree_only() -> None:
    tree = make_tree()
    for tokens in ([1, 2, 3, 4], [1, 2, 3, 5, 6], [1, 9], [7]):
        put(tree, tokens)
    assert tree.evict_prefix([1, 2]) == 5
    assert keys(tree) == [(1,), (9,), (7,)]
    assert tree.evict_prefix([1, 2]) == 0
    assert tree.evict_prefix([9]) == 0
    assert tree.evict_prefix(None) == 3
    assert keys(tree) == []


def test_evict_prefix_spares_what_is_locked() -> None:
    tree = make_tree()
    put(tree, [1, 2, 3])
    put(tree, [1, 2, 4, 5])
    tree.inc_lock_ref(node_of(tree, [1, 2, 3]))
    assert tree.evict_prefix([1]) == 2
    assert keys(tree) == [(1, 2), (3,)]
    assert tree.evict_prefix(None) == 0


def test_whole_pages_only() -> None:
    tree = make_tree(page_size=4)
    allocator = tree.token_to_kv_pool_allocator
    slots = allocator.alloc(12)
    assert slots is not None
    assert tree.insert(list(range(10)), slots) == 0
    assert tree.evictable_size() == 8
    assert len(tree.match_prefix(list(range(7))).indices) == 4
    assert len(tree.match_prefix([0, 1, 2]).indices) == 0
    assert len(tree.match_prefix([0, 1, 2, 9, 9]).indices) == 0
    assert keys(tree) == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert tree.evict_prefix([0, 1, 2, 3, 4]) == 4
    allocator.free(slots[8:])
    assert allocator.available_size() == 252


def test_disabled_it_keeps_and_matches_nothing() -> None:
    tree = make_tree(disable=True)
    assert tree.insert([1, 2], np.array([1, 2])) == 0
    assert len(tree.match_prefix([1, 2]).indices) == 0
    assert tree.evict(5) == 0
    assert keys(tree) == []


def test_reset_frees_all_and_starts_over() -> None:
    tree = make_tree()
    put(tree, [1, 2])
    node = node_of(tree, [1, 2])
    tree.inc_lock_ref(node)
    with pytest.raises(LockRefError, match="cannot be emptied"):
        tree.reset()
    assert keys(tree) == [(1, 2)]
    tree.dec_lock_ref(node)
    tree.reset()
    assert keys(tree) == []
    assert tree.token_to_kv_pool_allocator.available_size() == 256
    put(tree, [5])
    assert node_of(tree, [5]).id == 1


short_tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@given(st.lists(st.tuples(short_tokens, st.integers(0, 3)), max_size=25))
def test_the_tree_agrees_with_a_set_of_sequences(steps: list[tuple[list[int], int]]) -> None:
    tree = make_tree()
    known: dict[tuple[int, ...], int] = {}  # each cached prefix, and the slot of its last token
    locked: list[TreeNode] = []
    for tokens, action in steps:
        if action == 0:
            slots = put(tree, tokens)
            for end in range(1, len(tokens) + 1):
                known.setdefault(tuple(tokens[:end]), int(slots[end - 1]))
        elif action == 1:
            locked.append(tree.match_prefix(tokens).last_node)
            tree.inc_lock_ref(locked[-1])
        elif action == 2 and locked:
            tree.dec_lock_ref(locked.pop())
        else:
            tree.evict(3)
            left = set(tree.all_values_flatten().tolist())
            known = {prefix: slot for prefix, slot in known.items() if slot in left}
        expected = [
            known[tuple(tokens[:end])]
            for end in range(1, len(tokens) + 1)
            if tuple(tokens[:end]) in known
        ]
        assert tree.match_prefix(tokens).indices.tolist() == expected
        assert sorted(tree.all_values_flatten().tolist()) == sorted(known.values())
        assert tree.evictable_size() + tree.protected_size() == len(known)
        for node in tree.nodes():
            assert node.parent is not None
            assert all(node.lock_ref >= child.lock_ref for child in node.children.values())
    for node in locked:
        tree.dec_lock_ref(node)
    assert tree.protected_size() == 0


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix_len(tuple(a), tuple(b)) == expected


def test_accesses_are_counted_not_timed() -> None:
    tree = make_tree()
    times = []
    for _ in range(3):
        put(tree, [1])
        times.append(node_of(tree, [1]).last_access_time)
    assert times == sorted(times)
    assert all(later - earlier == 2 for earlier, later in pairwise(times))

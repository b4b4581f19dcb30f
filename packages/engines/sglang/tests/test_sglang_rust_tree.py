"""The reader of a Rust core, on a tree that prints itself as that core does."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import _compat
from scripted_sglang._compat.rust_tree import RustTree
from scripted_sglang.memory import SglangPrefixTree

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


class RustUnifiedTreeCore:
    """By SGLang's name: it can only be asked for a prefix."""

    def __init__(self, tree: RustLikeTree) -> None:
        self._tree = tree

    def match_full_device_prefix(self, key: Any) -> tuple[int, int, int]:
        raise AssertionError("not asked in these tests")


class RustLikeTree:
    """Nodes as (id, parent id, tokens, lock ref); inserts do what the test has put into them."""

    disable = False
    page_size = 1

    def __init__(self) -> None:
        self.tree_core = RustUnifiedTreeCore(self)
        self.nodes: dict[int, tuple[int, int, int]] = {}
        self.locked: list[tuple[int, Any]] = []
        self.noise = b""

    def insert(self, params: Any) -> Any:
        params.change(self.nodes)
        return SimpleNamespace(last_device_node=params.last)

    def inc_lock_ref(self, node_id: int) -> Any:
        parent, tokens, ref = self.nodes[node_id]
        self.nodes[node_id] = (parent, tokens, ref + 1)
        return SimpleNamespace(to_dec_params=lambda: node_id)

    def dec_lock_ref(self, node_id: int, receipt: int) -> None:
        assert receipt == node_id
        parent, tokens, ref = self.nodes[node_id]
        self.nodes[node_id] = (parent, tokens, ref - 1)

    def pretty_print(self) -> None:
        os.write(1, b" [0] 0 full_lock=1 Full=no\n" + self.noise)
        self._print_below(0, 3)

    def _print_below(self, parent: int, indent: int) -> None:
        for node_id, (of, tokens, ref) in self.nodes.items():
            if of == parent:
                line = f"{' ' * indent}[{node_id}] {tokens} full_lock={ref} Full=yes Swa=no\n"
                os.write(1, line.encode())
                self._print_below(node_id, indent + 2)


def _insert(tree: RustLikeTree, last: int, change: Any = lambda nodes: None, **more: Any) -> None:
    tree.insert(SimpleNamespace(change=change, last=last, **more))


def _hits(tree: RustLikeTree) -> dict[int, int]:
    return {view.native: view.hit_count for view in SglangPrefixTree(tree, page_size=1).nodes()}


@pytest.fixture
def tree() -> RustLikeTree:
    made = RustLikeTree()
    _compat.watch_tree(made)
    return made


def test_nodes_are_read_from_what_is_printed_and_nothing_of_it_reaches_the_output(
    tree: RustLikeTree, capfd: pytest.CaptureFixture[str]
) -> None:
    tree.nodes = {4: (0, 2, 0), 2: (0, 5, 1), 1: (2, 5, 0), 3: (2, 2, 1)}
    tree.noise = b"a line of another thread\n"
    nodes = {node.id: node for node in _compat.tree_nodes(tree)}
    assert capfd.readouterr().out == ""
    assert sorted(nodes) == [1, 2, 3, 4]
    assert (nodes[1].parent, nodes[2].parent.id) == (nodes[2], 0)
    assert {n.id: (n.key_len, n.key_end, n.lock_ref) for n in nodes.values()} == {
        4: (2, 2, 0),
        2: (5, 5, 1),
        1: (5, 10, 0),
        3: (2, 7, 1),
    }
    assert [_compat.lock_ref_of(node) for node in nodes.values()].count(1) == 2
    assert _compat.node_at(tree, 3).id == 3
    assert _compat.node_at(tree, -1) is None
    order = [node.id for node in _compat.tree_nodes(tree)]
    assert order.index(2) < min(order.index(1), order.index(3)), "parents come first"


def test_a_tree_in_an_unknown_form_is_an_error(tree: RustLikeTree) -> None:
    tree.pretty_print = lambda: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="unknown form"):
        list(_compat.tree_nodes(tree))


def test_an_insert_counts_on_its_path_and_a_split_hands_on_what_was_counted(
    tree: RustLikeTree,
) -> None:
    _insert(tree, 1, lambda nodes: nodes.update({1: (0, 10, 0)}))
    _insert(tree, 1)
    assert _hits(tree) == {1: 2}

    def split(nodes: dict[int, tuple[int, int, int]]) -> None:
        nodes.update({2: (0, 5, 0), 1: (2, 5, 0), 3: (2, 2, 0)})

    _insert(tree, 3, split)
    assert _hits(tree) == {1: 2, 2: 3, 3: 1}
    # What the request itself has inserted before does not count again, nor does a chunk (0.5.20).
    _insert(tree, 3, inserted_len=5)
    assert _hits(tree) == {1: 2, 2: 3, 3: 2}
    _insert(tree, 3, chunked=True)
    assert _hits(tree) == {1: 2, 2: 3, 3: 2}


def test_a_match_that_splits_hands_on_the_count_too_and_what_is_gone_is_forgotten(
    tree: RustLikeTree,
) -> None:
    _insert(tree, 1, lambda nodes: nodes.update({1: (0, 10, 0)}))
    tree.nodes = {2: (0, 4, 0), 1: (2, 6, 0)}
    assert _hits(tree) == {1: 1, 2: 1}
    tree.nodes = {}
    assert _hits(tree) == {}
    _insert(tree, 3, lambda nodes: nodes.update({3: (0, 4, 0)}))
    assert _hits(tree) == {3: 1}


def test_locks_go_by_number(tree: RustLikeTree) -> None:
    tree.nodes = {1: (0, 4, 0)}
    view = SglangPrefixTree(tree, page_size=1)
    (node,) = view.nodes()
    lock = view.lock(node)
    assert (lock.native, view.held_locks) == (1, 1)
    (node,) = view.nodes()
    assert node.lock_ref == 1
    view.unlock(lock)
    (node,) = view.nodes()
    assert (node.lock_ref, view.held_locks) == (0, 0)


def test_other_trees_have_no_reader() -> None:
    assert isinstance(RustTree(RustLikeTree()), RustTree)
    _compat.watch_tree(SimpleNamespace(disable=False))

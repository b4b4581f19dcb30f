"""Prefix trees, of which there are four kinds.

The legacy radix tree is the default of 0.5.15; its nodes carry value and lock ref. The unified tree
keeps both for each component of a node (full KV, sliding window, ...) and in 0.5.15 is asked for by
a variable. By 0.5.20 it is the default, keeps its nodes in a core and takes their ids. The core
is Python's or Rust's, and the latter is ``rust_tree``'s subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from scripted_sglang._compat.arrays import IntArray, as_array
from scripted_sglang._compat.rust_tree import RustNode, is_rust, rust_nodes, rust_tree


def tree_root(tree: Any) -> Any:
    """The root node: of the unified tree's core, or of the legacy tree itself."""
    if is_rust(tree):
        return rust_tree(tree).root()
    core = getattr(tree, "tree_core", None)
    return tree.root_node if core is None else core.root_node


def watch_tree(tree: Any) -> None:
    """Begin to count what a tree counts and does not tell, before it has any node."""
    if is_rust(tree):
        rust_tree(tree)


def takes_node_ids(tree: Any) -> bool:
    """Whether the tree is given ids of nodes where the others are given the nodes."""
    return hasattr(tree, "tree_core")


def tree_nodes(tree: Any) -> Iterator[Any]:
    """All nodes but the root, parents before children; none of a tree that is switched off."""
    if tree.disable:
        return
    if is_rust(tree):
        yield from rust_nodes(tree)
        return
    stack = list(tree_root(tree).children.values())
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())


def lock_ref_of(node: Any) -> int:
    """Lock ref of a node; the unified tree keeps one for each component, the first is full KV."""
    data = getattr(node, "component_data", None)
    return int(node.lock_ref if data is None else data[0].lock_ref)


def node_at(tree: Any, last_node: Any) -> Any | None:
    """The node that a request stands on, which the unified tree names by id."""
    if not isinstance(last_node, int) or not takes_node_ids(tree):
        return last_node
    if last_node < 0:
        return None
    return (
        rust_tree(tree).find(last_node) if is_rust(tree) else tree.tree_core.node_by_id(last_node)
    )


def native_node(node: Any) -> Any:
    """A node as the engine names it: the object, or the number of one in a Rust core."""
    return node.id if isinstance(node, RustNode) else node


def nodes_below(tree: Any, prefix: tuple[int, ...]) -> set[Any]:
    """Identities of the nodes whose path from the root begins with all of ``prefix``."""
    if is_rust(tree):
        return set(rust_tree(tree).below(prefix))
    found: set[Any] = set()
    stack = [(child, 0) for child in tree_root(tree).children.values()]
    while stack:
        node, matched = stack.pop()
        key = node_token_ids(node)
        rest = prefix[matched : matched + len(key)]
        if key[: len(rest)] != rest:
            continue
        matched += len(rest)
        if matched == len(prefix):
            found.add(identity_of(node))
        stack.extend((child, matched) for child in node.children.values())
    return found


def identity_of(node: Any) -> int:
    """What stays the same of a node: nodes of a Rust core are read anew each time."""
    return node.id if isinstance(node, RustNode) else id(node)


def lock_node(tree: Any, node: Any) -> Any:
    """Lock a node and its ancestors; the receipt undoes it."""
    return tree.inc_lock_ref(_handle(tree, node)).to_dec_params()


def unlock_node(tree: Any, node: Any, receipt: Any) -> None:
    """Undo one lock."""
    tree.dec_lock_ref(_handle(tree, node), receipt)


def _handle(tree: Any, node: Any) -> Any:
    return node.id if takes_node_ids(tree) else node


def tree_tokens(tree: Any) -> IntArray:
    """Slots of all tokens that a tree holds; the legacy one cannot flatten when it is empty."""
    if tree.disable or not (is_rust(tree) or tree_root(tree).children):
        return np.empty(0, dtype=np.int64)
    return as_array(tree.all_values_flatten())


def node_value_tokens(node: Any) -> int:
    """How many tokens of full KV a node holds."""
    if isinstance(node, RustNode):
        return node.key_len if node.has_value else 0
    data = getattr(node, "component_data", None)
    value = node.value if data is None else data[0].value
    return 0 if value is None else len(value)


def node_slots(node: Any) -> IntArray | None:
    """The slots of full KV on the edge to a node; ``None`` where they are gone."""
    data = getattr(node, "component_data", None)
    value = node.value if data is None else data[0].value
    return None if value is None else as_array(value)


def node_token_ids(node: Any) -> tuple[int, ...]:
    """The tokens on the edge to a node."""
    return tuple(int(token) for token in node.key.raw_token_ids())


def evictable_tokens(tree: Any, *, pool: str, is_hybrid: bool) -> int:
    """What a tree would give up of one pool."""
    if tree.disable:
        return 0
    if not is_hybrid:
        return int(tree.evictable_size())
    return int(tree.swa_evictable_size() if pool == "swa" else tree.full_evictable_size())


def evict_tokens(tree: Any, tokens: int, *, swa_tokens: int = 0) -> None:
    """Evict least recently used unlocked nodes until so many tokens came free."""
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams

    tree.evict(EvictParams(num_tokens=tokens, swa_num_tokens=swa_tokens))

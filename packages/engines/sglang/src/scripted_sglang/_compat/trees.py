"""Prefix trees, of which there are three kinds.

The legacy radix tree is the default of 0.5.15; its nodes carry value and lock ref. The unified tree
keeps both for each component of a node (full KV, sliding window, ...) and in 0.5.15 is asked for by
a variable. By 0.5.20 it is the default, keeps its nodes in a core and takes their ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from scripted_sglang._compat.arrays import IntArray, as_array


def tree_root(tree: Any) -> Any:
    """The root node: of the unified tree's core, or of the legacy tree itself."""
    core = getattr(tree, "tree_core", None)
    return tree.root_node if core is None else core.root_node


def takes_node_ids(tree: Any) -> bool:
    """Whether the tree is given ids of nodes where the others are given the nodes."""
    return hasattr(tree, "tree_core")


def tree_nodes(tree: Any) -> Iterator[Any]:
    """All nodes but the root, parents before children; none of a tree that is switched off."""
    if tree.disable:
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
    return tree.tree_core.node_by_id(last_node) if last_node >= 0 else None


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
    if tree.disable or not tree_root(tree).children:
        return np.empty(0, dtype=np.int64)
    return as_array(tree.all_values_flatten())


def node_value_tokens(node: Any) -> int:
    """How many tokens of full KV a node holds."""
    data = getattr(node, "component_data", None)
    value = node.value if data is None else data[0].value
    return 0 if value is None else len(value)


def node_token_ids(node: Any) -> tuple[int, ...]:
    """The tokens on the edge to a node."""
    return tuple(int(token) for token in node.key.raw_token_ids())


def evict_tokens(tree: Any, tokens: int, *, swa_tokens: int = 0) -> None:
    """Evict least recently used unlocked nodes until so many tokens came free."""
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams

    tree.evict(EvictParams(num_tokens=tokens, swa_num_tokens=swa_tokens))

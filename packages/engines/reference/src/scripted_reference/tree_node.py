"""A node of the prefix tree."""

from __future__ import annotations

from typing import Final

import numpy as np

from scripted_reference.memory import IntArray

PlainKey = int | tuple[int, ...]
ChildKey = PlainKey | tuple[str, PlainKey]
"""The first token or page of an edge; with an extra key, that key and the token or page."""
NO_SLOTS: Final[IntArray] = np.empty(0, dtype=np.int64)


class TreeNode:
    """A node and the edge that leads to it.

    Attributes:
        key: the tokens on the edge.
        value: the slot of each of them.
        lock_ref: how many requests (or others) need this node; at least as many as any child has.
        hit_count: how often a request left its KV here or came by, chunks not counted.
        last_access_time: the tree's own clock, which counts accesses.
        swa_lock_ref: how many need the window slots of this node, in a tree over a window pool.
        swa_count: how many of its slots have window slots.
        extra_key: what its KV depends on besides the tokens, such as the name of a LoRA adapter.
        id: its number, in the order of creation.
    """

    __slots__ = (
        "children",
        "extra_key",
        "hit_count",
        "id",
        "key",
        "last_access_time",
        "lock_ref",
        "parent",
        "swa_count",
        "swa_lock_ref",
        "value",
    )

    def __init__(
        self,
        *,
        node_id: int,
        key: tuple[int, ...],
        value: IntArray,
        parent: TreeNode | None,
        extra_key: str | None = None,
    ) -> None:
        self.id = node_id
        self.key = key
        self.value = value
        self.extra_key = extra_key
        self.parent = parent
        self.children: dict[ChildKey, TreeNode] = {}
        self.lock_ref = 0
        self.hit_count = 0
        self.last_access_time = 0
        self.swa_lock_ref = 0
        self.swa_count = 0

    def __repr__(self) -> str:
        return f"TreeNode(id={self.id}, tokens={len(self.key)}, lock_ref={self.lock_ref})"


def common_prefix_len(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Return how many leading items two tuples share, by halving: slices compare in C."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    same, different = 0, length
    while different - same > 1:
        middle = (same + different) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            different = middle
    return same

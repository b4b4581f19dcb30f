"""The unified tree's Rust core: its nodes are numbers, and what it says of them is a printed tree.

The core has no call for a node's lock ref, nor for all nodes; it prints both, to the process's
standard output, which is caught for the time of the call. Node numbers are never given out twice.
Hit counts it keeps to itself. They are counted beside it, by the rule of the Python core: an insert
counts at each node on its way that ends beyond what the request had inserted before, and a node that
is split hands its count to both halves.
"""

from __future__ import annotations

import os
import re
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

_LINE = re.compile(r"^( *)\[(\d+)\] (\d+) full_lock=(\d+) Full=(yes|no)")


@dataclass(eq=False)
class RustNode:
    """One node as it was when the tree was read. ``key_len`` is in tokens, as is ``key_end``."""

    id: int
    key_len: int
    key_end: int
    lock_ref: int
    has_value: bool
    parent: RustNode | None
    children: dict[int, RustNode] = field(default_factory=dict)
    hit_count: int = 0


class RustTree:
    """Reads one Rust core, and counts the hits of its nodes from when it is made."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self._hits: dict[int, int] = {}
        self._insert = tree.insert
        tree.insert = self._counting_insert

    def root(self) -> RustNode:
        """The root, with all nodes below it, hit counts included."""
        root, nodes = self._read()
        self._take_in(nodes)
        for node in nodes.values():
            node.hit_count = self._hits.get(node.id, 0)
        return root

    def find(self, node_id: int) -> RustNode | None:
        """One node by its number, or ``None`` where it is the root or gone."""
        return self._read()[1].get(node_id)

    def below(self, prefix: Sequence[int]) -> set[int]:
        """Numbers of the nodes whose path begins with all whole pages of ``prefix``."""
        from sglang.srt.mem_cache.radix_cache import RadixKey

        page_size = self._tree.page_size
        length = len(prefix) // page_size * page_size
        key = RadixKey(token_ids=array("q", prefix[:length]), extra_key=None)
        matched, node_id, _ = self._tree.tree_core.match_full_device_prefix(key)
        if not length or matched < length:
            return set()
        found, stack = set(), [self._read()[1][node_id]]
        while stack:
            node = stack.pop()
            found.add(node.id)
            stack.extend(node.children.values())
        return found

    def _counting_insert(self, params: Any) -> Any:
        # A match may have split nodes since: they inherit what was counted up to now.
        self._take_in(self._read()[1])
        result = self._insert(params)
        nodes = self._read()[1]
        self._take_in(nodes)
        # Up to 0.5.20 a chunk that is not the last counts nowhere.
        if not getattr(params, "chunked", False):
            node = nodes.get(result.last_device_node)
            while node is not None and node.key_len:
                if node.key_end > getattr(params, "inserted_len", 0):
                    self._hits[node.id] += 1
                node = node.parent
        return result

    def _take_in(self, nodes: dict[int, RustNode]) -> None:
        """New nodes: the upper half of a split has its count from the lower one, which is older."""
        self._hits = {node_id: hits for node_id, hits in self._hits.items() if node_id in nodes}
        for node in sorted(nodes.values(), key=lambda one: -one.key_end):
            if node.id not in self._hits:
                older = [self._hits[c.id] for c in node.children.values() if c.id < node.id]
                self._hits[node.id] = max(older, default=0)

    def _read(self) -> tuple[RustNode, dict[int, RustNode]]:
        """The root, and all other nodes by number, parents before children."""
        root = None
        nodes: dict[int, RustNode] = {}
        path: list[tuple[int, RustNode]] = []
        for line in self._printed().splitlines():
            match = _LINE.match(line)
            if match is None:
                continue  # another thread's
            indent, node_id, key_len = len(match[1]), int(match[2]), int(match[3])
            while path and path[-1][0] >= indent:
                path.pop()
            parent = path[-1][1] if path else None
            node = RustNode(
                id=node_id,
                key_len=key_len,
                key_end=key_len + (parent.key_end if parent else 0),
                lock_ref=int(match[4]),
                has_value=match[5] == "yes",
                parent=parent,
            )
            if parent is None:
                root = node
            else:
                parent.children[node_id] = node
                nodes[node_id] = node
            path.append((indent, node))
        if root is None:
            raise RuntimeError("the Rust core of this SGLang prints its tree in an unknown form")
        return root, nodes

    def _printed(self) -> str:
        sys.stdout.flush()
        kept = os.dup(1)
        caught = os.memfd_create("scripted-tree")
        try:
            os.dup2(caught, 1)
            try:
                self._tree.pretty_print()
            finally:
                os.dup2(kept, 1)
            os.lseek(caught, 0, os.SEEK_SET)
            with os.fdopen(os.dup(caught), "rb") as file:
                return file.read().decode(errors="replace")
        finally:
            os.close(kept)
            os.close(caught)


def is_rust(tree: Any) -> bool:
    """Whether the nodes of this tree are in a Rust core."""
    return type(getattr(tree, "tree_core", None)).__name__ == "RustUnifiedTreeCore"


_ATTRIBUTE = "_scripted_rust_tree"


def rust_tree(tree: Any) -> RustTree:
    """The reader of a tree, made on first use."""
    reader = getattr(tree, _ATTRIBUTE, None)
    if reader is None:
        reader = RustTree(tree)
        setattr(tree, _ATTRIBUTE, reader)
    assert isinstance(reader, RustTree)
    return reader


def rust_nodes(tree: Any) -> Iterator[RustNode]:
    """All nodes but the root, parents before children."""
    stack = list(rust_tree(tree).root().children.values())
    while stack:
        node = stack.pop()
        yield node
        stack.extend(node.children.values())

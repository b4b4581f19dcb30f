"""The prefix tree: KV that finished or retracted requests leave behind for others to start from.

A radix tree over token ids, as introduced by SGLang (Zheng et al., "SGLang: Efficient Execution of
Structured Language Model Programs", 2024). An edge carries a run of tokens and their KV slots. A node
that a request builds on is locked, together with the path above it; unlocked leaves are evicted,
least recently used first. With pages of several slots everything is aligned to whole pages. KV that
depends on more than the tokens, such as a LoRA adapter, is kept apart by an extra key: as SGLang does,
paths of different extra keys share nothing but the root.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scripted_reference.errors import LockRefError
from scripted_reference.memory import IntArray, PagedTokenAllocator, ReqToTokenPool
from scripted_reference.tree_node import NO_SLOTS, ChildKey, TreeNode, common_prefix_len

if TYPE_CHECKING:
    from scripted_reference.request import Req


class MatchResult(NamedTuple):
    """The slots of the longest cached prefix, and the node that it ends at."""

    indices: IntArray
    last_node: TreeNode


class RadixCache:
    """The prefix tree over one KV pool. Disabled, it never matches and keeps nothing."""

    def __init__(
        self,
        *,
        req_to_token_pool: ReqToTokenPool,
        token_to_kv_pool_allocator: PagedTokenAllocator,
        page_size: int = 1,
        disable: bool = False,
    ) -> None:
        self.req_to_token_pool = req_to_token_pool
        self.token_to_kv_pool_allocator = token_to_kv_pool_allocator
        self.page_size = page_size
        self.disable = disable
        self._clear()

    def _clear(self) -> None:
        self._clock = 0
        self._next_id = 0
        self._evictable_size = 0
        self._protected_size = 0
        self._flat_values: IntArray | None = NO_SLOTS
        self._nodes: list[TreeNode] | None = []
        self.root_node = self._new_node((), NO_SLOTS, parent=None)
        self.root_node.lock_ref = 1  # nobody may evict it

    # --- what is in it

    def nodes(self) -> Sequence[TreeNode]:
        """Return every node but the root, parents before children, oldest child first.

        Cached like the slots, and for the same askers.
        """
        if self._nodes is None:
            self._nodes = []
            stack = list(reversed(self.root_node.children.values()))
            while stack:
                node = stack.pop()
                self._nodes.append(node)
                if node.children:
                    stack.extend(reversed(node.children.values()))
        return self._nodes

    def evictable_size(self) -> int:
        """Return how many tokens nobody needs."""
        return self._evictable_size

    def protected_size(self) -> int:
        """Return how many tokens are locked."""
        return self._protected_size

    def all_values_flatten(self) -> IntArray:
        """Return the slots of all nodes, in no particular order; not to be written to.

        Cached: audits ask at every iteration, and a steady decode does not touch the tree.
        """
        if self._flat_values is None:
            values = [node.value for node in self.nodes()]
            self._flat_values = np.concatenate(values) if values else NO_SLOTS
        return self._flat_values

    # --- prefixes

    def match_prefix(
        self, token_ids: Sequence[int], *, extra_key: str | None = None
    ) -> MatchResult:
        """Return the longest prefix of `token_ids` cached under `extra_key`, in whole pages.

        An edge that the prefix ends on is split, so that the prefix can be locked without the rest.
        """
        node = self.root_node
        if self.disable:
            return MatchResult(NO_SLOTS, node)
        tokens = self._aligned(token_ids)
        now = self._tick()
        values: list[IntArray] = []
        position = 0
        while position < len(tokens):
            child = node.children.get(self._child_key(tokens, position, extra_key))
            if child is None:
                break
            matched = self._common_len(child.key, tokens, position)
            if matched < len(child.key):
                child = self._split(child, matched)
            child.last_access_time = now
            values.append(child.value)
            position += matched
            node = child
        if not values:
            return MatchResult(NO_SLOTS, node)
        return MatchResult(np.concatenate(values), node)

    def insert(
        self,
        token_ids: Sequence[int],
        value: IntArray,
        *,
        chunked: bool = False,
        extra_key: str | None = None,
    ) -> int:
        """Insert tokens with their slots, in whole pages, and return how many were there already.

        The tree takes over the slots of the others; the caller frees its duplicates of the former.
        """
        if self.disable:
            return 0
        tokens = self._aligned(token_ids)
        now = self._tick()
        node = self.root_node
        position = 0
        while position < len(tokens):
            key = self._child_key(tokens, position, extra_key)
            child = node.children.get(key)
            if child is None:
                leaf = self._new_node(
                    tokens[position:],
                    value[position : len(tokens)].copy(),
                    parent=node,
                    extra_key=extra_key,
                )
                node.children[key] = leaf
                leaf.last_access_time = now
                leaf.hit_count += not chunked
                self._evictable_size += len(leaf.key)
                self._flat_values = self._nodes = None
                self._on_new_leaf(leaf)
                break
            matched = self._common_len(child.key, tokens, position)
            if matched < len(child.key):
                child = self._split(child, matched)
            child.last_access_time = now
            child.hit_count += not chunked
            position += matched
            node = child
        return position

    # --- locks

    def inc_lock_ref(self, node: TreeNode) -> int:
        """Lock a node and the path above it; return the change of `evictable_size`, 0 or negative."""
        before = self._evictable_size
        step: TreeNode | None = node
        while step is not None and step is not self.root_node:
            if step.lock_ref == 0:
                self._evictable_size -= len(step.key)
                self._protected_size += len(step.key)
            step.lock_ref += 1
            step = step.parent
        return self._evictable_size - before

    def dec_lock_ref(self, node: TreeNode) -> int:
        """Undo one `inc_lock_ref`; return the change of `evictable_size`, 0 or positive.

        Raises `LockRefError`, and unlocks nothing below, at a node that is not locked.
        """
        before = self._evictable_size
        step: TreeNode | None = node
        while step is not None and step is not self.root_node:
            if step.lock_ref <= 0:
                raise LockRefError(f"{step!r} was unlocked more often than it was locked")
            step.lock_ref -= 1
            if step.lock_ref == 0:
                self._evictable_size += len(step.key)
                self._protected_size -= len(step.key)
            step = step.parent
        return self._evictable_size - before

    # --- eviction

    def evict(self, num_tokens: int) -> int:
        """Drop unlocked leaves, least recently used first, until `num_tokens` are freed.

        Whole leaves go, so it can be more; it is less when nothing unlocked is left. Returns how many.
        """
        if num_tokens <= 0 or self._evictable_size == 0:
            return 0
        heap = [
            (node.last_access_time, node.id, node)
            for node in self.nodes()
            if not node.children and node.lock_ref == 0
        ]
        heapq.heapify(heap)
        evicted = 0
        while heap and evicted < num_tokens:
            _, _, leaf = heapq.heappop(heap)
            parent = self._drop_leaf(leaf)
            evicted += len(leaf.key)
            if parent is not self.root_node and not parent.children and parent.lock_ref == 0:
                heapq.heappush(heap, (parent.last_access_time, parent.id, parent))
        return evicted

    def evict_prefix(self, tokens: Sequence[int] | None) -> int:
        """Drop what is unlocked of everything that begins with `tokens`; return how many tokens.

        A node whose edge the prefix ends on goes as a whole. `None` means all of the tree.
        """
        if tokens is None:
            return self.evict(self._evictable_size)
        evicted = 0
        for top in self._nodes_beginning_with(tuple(tokens)):
            # Parents come before children, so backwards every node is seen after its children.
            for node in reversed([top, *self._below(top)]):
                if not node.children and node.lock_ref == 0:
                    self._drop_leaf(node)
                    evicted += len(node.key)
        return evicted

    def reset(self) -> None:
        """Free every slot of the tree and start over, clock and node numbers included.

        Raises `LockRefError`, and frees nothing, while something is locked.
        """
        if self._protected_size:
            locked = next(node for node in self.nodes() if node.lock_ref)
            raise LockRefError(f"the tree cannot be emptied: {locked!r} is locked")
        self.token_to_kv_pool_allocator.free(self.all_values_flatten())
        self._clear()

    # --- requests

    def cache_unfinished_req(self, req: Req, *, chunked: bool = False) -> None:
        """Leave the request's KV to the tree, while the request goes on using it.

        Where another request was faster, this one's duplicates are freed and its row is pointed to
        the slots of the tree. The lock moves to the node that its KV now ends at.
        """
        row = self._row(req)
        if self.disable:
            req.prefix_indices = row[: req.kv_committed_len].copy()
            return
        tokens = req.fill_ids[: req.kv_committed_len]
        present = self.insert(tokens, row, chunked=chunked, extra_key=req.lora_path)
        self._free_duplicates(req, tokens, present=present)
        # Not what a newcomer could use of it: all that the tree owns now.
        indices, last_node = RadixCache.match_prefix(self, tokens, extra_key=req.lora_path)
        row[req.cache_protected_len : len(indices)] = indices[req.cache_protected_len :]
        req.cache_protected_len = len(indices)
        req.prefix_indices = row[: req.kv_committed_len].copy()
        self.move_lock(req, last_node)

    def cache_finished_req(self, req: Req, *, is_insert: bool = True) -> None:
        """Take back the request's KV: into the tree, or with `is_insert=False` into the free pages.

        What the tree owned already stays there. Its lock is released; the row is not.
        """
        row = self._row(req)
        keep_from = req.cache_protected_len
        if is_insert and not self.disable:
            tokens = (*req.origin_input_ids, *req.output_ids)[: req.kv_committed_len]
            present = self.insert(tokens, row, extra_key=req.lora_path)
            self._free_duplicates(req, tokens, present=present)
            keep_from = len(tokens) // self.page_size * self.page_size
        self.token_to_kv_pool_allocator.free(row[keep_from : req.kv_allocated_len])
        self.move_lock(req, None)

    def _row(self, req: Req) -> IntArray:
        assert req.req_pool_idx is not None, f"{req!r} has no row"
        row: IntArray = self.req_to_token_pool.req_to_token[req.req_pool_idx]
        return row

    def _free_duplicates(self, req: Req, tokens: Sequence[int], *, present: int) -> None:
        """Free the request's own slots of tokens that were in the tree already."""
        self.token_to_kv_pool_allocator.free(self._row(req)[req.cache_protected_len : present])

    def move_lock(self, req: Req, node: TreeNode | None) -> None:
        """Lock the node that a request's prefix ends at, if there is one, and unlock the one before."""
        # The new path is locked first, so that nothing on both paths is ever unlocked in between.
        if node is not None:
            self.inc_lock_ref(node)
        if req.last_node is not None:
            self.dec_lock_ref(req.last_node)
        req.last_node = node

    # --- the tree itself

    def _on_new_leaf(self, leaf: TreeNode) -> None:
        """A leaf was added; nothing is counted here that has to know."""

    def _new_node(
        self,
        key: tuple[int, ...],
        value: IntArray,
        *,
        parent: TreeNode | None,
        extra_key: str | None = None,
    ) -> TreeNode:
        node = TreeNode(
            node_id=self._next_id, key=key, value=value, parent=parent, extra_key=extra_key
        )
        self._next_id += 1
        return node

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _aligned(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(token_ids[: len(token_ids) // self.page_size * self.page_size])

    def _child_key(self, tokens: tuple[int, ...], position: int, extra_key: str | None) -> ChildKey:
        plain = (
            tokens[position]
            if self.page_size == 1
            else tokens[position : position + self.page_size]
        )
        return plain if extra_key is None else (extra_key, plain)

    def _common_len(self, key: tuple[int, ...], tokens: tuple[int, ...], position: int) -> int:
        matched = common_prefix_len(key, tokens[position : position + len(key)])
        return matched // self.page_size * self.page_size

    def _split(self, child: TreeNode, length: int) -> TreeNode:
        """Cut the edge to `child` after `length` tokens; return the new node in the middle."""
        parent = child.parent
        assert parent is not None, "the root has no edge to cut"
        upper = self._new_node(
            child.key[:length],
            child.value[:length].copy(),
            parent=parent,
            extra_key=child.extra_key,
        )
        upper.lock_ref = child.lock_ref
        upper.hit_count = child.hit_count
        upper.last_access_time = child.last_access_time
        parent.children[self._child_key(upper.key, 0, upper.extra_key)] = upper
        child.key = child.key[length:]
        child.value = child.value[length:].copy()
        child.parent = upper
        upper.children[self._child_key(child.key, 0, child.extra_key)] = child
        self._nodes = None  # which slots there are stays as it was
        return upper

    def _drop_leaf(self, leaf: TreeNode) -> TreeNode:
        parent = leaf.parent
        assert parent is not None, "the root is never dropped"
        assert not leaf.children, f"{leaf!r} is no leaf"
        assert leaf.lock_ref == 0, f"{leaf!r} is locked"
        del parent.children[self._child_key(leaf.key, 0, leaf.extra_key)]
        self.token_to_kv_pool_allocator.free(leaf.value)
        self._evictable_size -= len(leaf.key)
        self._flat_values = self._nodes = None
        return parent

    def _below(self, top: TreeNode) -> Iterator[TreeNode]:
        stack = list(top.children.values())
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())

    def _nodes_beginning_with(self, tokens: tuple[int, ...]) -> list[TreeNode]:
        """Return the topmost nodes whose path from the root begins with all of `tokens`."""
        found: list[TreeNode] = []
        stack = [(self.root_node, 0)]
        while stack:
            node, matched = stack.pop()
            if matched == len(tokens):
                found.extend([node] if node is not self.root_node else node.children.values())
                continue
            for child in node.children.values():
                rest = tokens[matched : matched + len(child.key)]
                if child.key[: len(rest)] == rest:
                    stack.append((child, matched + len(rest)))
        return found

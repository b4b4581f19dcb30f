"""What the adapter touches of SGLang, in plain Python and NumPy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np


class Tensor:
    """A 1-D or 2-D tensor."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=np.int64)

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        return self.values

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self.values[key])

    def __len__(self) -> int:
        return len(self.values)


class Allocator:
    """Pages 1..n, in tokens; page 0 is padding."""

    def __init__(self, *, pages: int, page_size: int) -> None:
        self.page_size = page_size
        self.size = pages * page_size
        self.free_pages: list[int] = []
        self.clear()

    def clear(self) -> None:
        self.free_pages = list(range(1, self.size // self.page_size + 1))

    def available_size(self) -> int:
        return len(self.free_pages) * self.page_size

    def get_all_free_pages(self) -> Tensor:
        return Tensor(self.free_pages)

    def alloc(self, tokens: int) -> Tensor | None:
        pages = tokens // self.page_size
        if pages > len(self.free_pages):
            return None
        taken, self.free_pages = self.free_pages[:pages], self.free_pages[pages:]
        offsets = np.arange(self.page_size)
        return Tensor(np.concatenate([page * self.page_size + offsets for page in taken]))

    def free(self, slots: Tensor) -> None:
        pages = np.unique(slots.values // self.page_size).tolist()
        assert not set(pages) & set(self.free_pages), "a double free"
        self.free_pages += pages


class Rows:
    """``req_to_token_pool``: row 0 is padding."""

    def __init__(self, *, rows: int, width: int = 64) -> None:
        self.size = rows
        self.req_to_token = Tensor(np.zeros((rows + 1, width)))
        self.free_slots: list[int] = []
        self.clear()

    def clear(self) -> None:
        self.free_slots = list(range(1, self.size + 1))

    def available_size(self) -> int:
        return len(self.free_slots)


class Key:
    """The tokens on the edge to a node."""

    def __init__(self, tokens: tuple[int, ...]) -> None:
        self.token_ids = list(tokens)

    def raw_token_ids(self) -> list[int]:
        return self.token_ids


class Receipt:
    """What a tree gives for a lock: proof of it, in the form in which it is taken back."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def to_dec_params(self) -> Receipt:
        return self


class Node:
    """One tree node, in the older form: lock ref and value on the node itself."""

    def __init__(self, tokens: tuple[int, ...] = (), slots: tuple[int, ...] = ()) -> None:
        self.key = Key(tokens)
        self.value = Tensor(slots)
        self.children: dict[int, Node] = {}
        self.parent: Node | None = None
        self.lock_ref = 0
        self.hit_count = 0

    def add(self, tokens: tuple[int, ...], slots: tuple[int, ...]) -> Node:
        child = Node(tokens, slots)
        child.parent = self
        self.children[tokens[0]] = child
        return child


class Tree:
    """The older radix tree."""

    def __init__(self, *, disable: bool = False) -> None:
        self.disable = disable
        self.root_node = Node()

    def inc_lock_ref(self, node: Node) -> Receipt:
        self._add(node, 1)
        return Receipt(node)

    def dec_lock_ref(self, node: Node, receipt: Receipt) -> None:
        assert receipt.node is node, "the receipt of another lock"
        self._add(node, -1)

    def _add(self, node: Node | None, amount: int) -> None:
        while node is not None and node is not self.root_node:
            node.lock_ref += amount
            assert node.lock_ref >= 0
            node = node.parent

    def all_values_flatten(self) -> Tensor:
        found: list[int] = []
        stack = list(self.root_node.children.values())
        assert stack, "the older tree cannot flatten an empty one"
        while stack:
            node = stack.pop()
            found += node.value.values.tolist()
            stack.extend(node.children.values())
        return Tensor(found)

    def evict(self, tokens: int) -> None:
        """Drop unlocked leaves, the first found first, until ``tokens`` are gone."""
        gone = 0
        while gone < tokens:
            leaf = next((node for node in self._nodes() if self._may_go(node)), None)
            if leaf is None:
                return
            assert leaf.parent is not None
            del leaf.parent.children[leaf.key.token_ids[0]]
            gone += len(leaf.value)

    def _nodes(self) -> list[Node]:
        found, stack = [], list(self.root_node.children.values())
        while stack:
            node = stack.pop()
            found.append(node)
            stack.extend(node.children.values())
        return found

    @staticmethod
    def _may_go(node: Node) -> bool:
        return not node.children and not node.lock_ref


def batch(*reqs: Any) -> SimpleNamespace:
    """A batch as far as the state looks at it."""
    return SimpleNamespace(reqs=list(reqs))


def request(rid: str, **overrides: Any) -> SimpleNamespace:
    """A request that waits and has no memory."""
    finished = overrides.pop("is_finished", False)
    kv = {"req_pool_idx": None, "kv_allocated_len": 0, "cache_protected_len": 0}
    kv |= overrides.pop("kv", {})
    return SimpleNamespace(
        **{
            "rid": rid,
            "origin_input_ids": [7] * 8,
            "output_ids": [],
            "last_node": None,
            "finished": lambda: finished,
            "kv": SimpleNamespace(**kv),
            **overrides,
        }
    )


def scheduler(**overrides: Any) -> SimpleNamespace:
    """A scheduler at rest, with 8 pages of 2 tokens and 4 rows."""
    return SimpleNamespace(
        **{
            "page_size": 2,
            "running_batch": batch(),
            "last_batch": None,
            "result_queue": [],
            "waiting_queue": [],
            "chunked_req": None,
            "tree_cache": Tree(),
            "req_to_token_pool": Rows(rows=4),
            "token_to_kv_pool_allocator": Allocator(pages=8, page_size=2),
            **overrides,
        }
    )

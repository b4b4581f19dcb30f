"""Every place where releases of SGLang differ, or where its objects are read by duck typing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scripted_core.views import FinishKind, FinishReason, ForwardMode

_KINDS = {"stop": FinishKind.STOP, "length": FinishKind.LENGTH, "abort": FinishKind.ABORT}
_MODES = {
    "EXTEND": ForwardMode.EXTEND,
    "DECODE": ForwardMode.DECODE,
    "MIXED": ForwardMode.MIXED,
    "IDLE": ForwardMode.IDLE,
}
IntArray = npt.NDArray[np.int64]


def as_array(tensor: Any) -> IntArray:
    """A 1-D integer tensor of any device as an array."""
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.int64)


def rank_names(scheduler: Any) -> list[str]:
    """Such as ``pp1`` and ``tp0``, of what there is more than one.

    Kept in SGLang's runtime context, earlier in the scheduler.
    """
    try:
        from sglang.srt.runtime_context import get_parallel
    except ImportError:
        holder = scheduler
    else:
        holder = get_parallel()
    found = []
    for name in ("dp", "pp", "tp"):
        rank, size = getattr(holder, f"{name}_rank", None), getattr(holder, f"{name}_size", None)
        if rank is not None and size is not None and size > 1:
            found.append(f"{name}{rank}")
    return found


# -- requests ------------------------------------------------------------------------------------


def kv_of(req: Any) -> Any:
    """Where a request keeps its row and its KV lengths: ``req.kv``, or the request itself."""
    return getattr(req, "kv", req)


def row_of(req: Any) -> int | None:
    """The row of a request, or ``None`` while it has no memory."""
    kv = kv_of(req)
    row = kv.req_pool_idx
    return None if row is None or row < 0 or not kv.kv_allocated_len else int(row)


def finish_reason_of(req: Any) -> FinishReason:
    """A finished request's reason in neutral words."""
    reason = req.finished_reason
    if reason is None:
        return FinishReason(kind=FinishKind.ABORT, message="Aborted")
    return finish_reason_from(reason.to_json())


def finish_reason_from(json: Any) -> FinishReason:
    """A reason from SGLang's JSON form."""
    kind = _KINDS.get(str(json.get("type")), FinishKind.STOP)
    return FinishReason(kind=kind, message=str(json.get("message") or ""))


def rids_in(message: Any) -> tuple[str, ...]:
    """The rids of the requests in an inbox message, empty for a message that starts none."""
    name = type(message).__name__
    if name in ("TokenizedGenerateReqInput", "TokenizedEmbeddingReqInput"):
        return (str(message.rid),)
    if name in ("BatchTokenizedGenerateReqInput", "BatchTokenizedEmbeddingReqInput"):
        return tuple(str(one.rid) for one in message)
    return ()


# -- batches -------------------------------------------------------------------------------------


def forward_mode_of(batch: Any) -> ForwardMode:
    """A batch's mode in neutral words."""
    return _MODES.get(batch.forward_mode.name, ForwardMode.OTHER)


def decoding_rids(batch: Any) -> frozenset[str]:
    """Of a mixed batch, the requests that decode in it."""
    return frozenset(req.rid for req in (getattr(batch, "decoding_reqs", None) or ()))


# -- pools ---------------------------------------------------------------------------------------


def free_pages(allocator: Any) -> IntArray:
    """Ids of all free pages of one allocator."""
    return as_array(allocator.get_all_free_pages())


def capacity_tokens(allocator: Any) -> int:
    """Tokens that an allocator manages."""
    return int(allocator.size)


# -- prefix tree ---------------------------------------------------------------------------------


def tree_root(tree: Any) -> Any:
    """The root node: of the unified tree's core, or of the legacy tree itself."""
    core = getattr(tree, "tree_core", None)
    return tree.root_node if core is None else core.root_node


def is_unified(tree: Any) -> bool:
    """Whether the tree takes node ids and gives lock receipts."""
    return hasattr(tree, "tree_core")


def tree_nodes(tree: Any) -> Iterator[Any]:
    """All nodes but the root, parents before children."""
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
    """The node that a request stands on; the unified tree names it by id."""
    if last_node is None or not is_unified(tree):
        return last_node
    core = tree.tree_core
    if isinstance(last_node, int):
        return core.node_by_id(last_node) if last_node >= 0 else None
    return last_node


def lock_node(tree: Any, node: Any) -> Any:
    """Lock a node and its ancestors; the receipt undoes it."""
    if is_unified(tree):
        return tree.inc_lock_ref(node.id).to_dec_params()
    tree.inc_lock_ref(node)
    return None


def unlock_node(tree: Any, node: Any, receipt: Any) -> None:
    """Undo one lock."""
    if is_unified(tree):
        tree.dec_lock_ref(node.id, receipt)
    else:
        tree.dec_lock_ref(node)


def tree_tokens(tree: Any) -> IntArray:
    """Slots of all tokens that the tree holds; the legacy tree cannot flatten an empty one."""
    if not tree_root(tree).children:
        return np.empty(0, dtype=np.int64)
    return as_array(tree.all_values_flatten())


def node_value_tokens(node: Any) -> int:
    """How many tokens of full KV a node holds."""
    data = getattr(node, "component_data", None)
    value = node.value if data is None else data[0].value
    return 0 if value is None else len(value)


def node_token_ids(node: Any) -> tuple[int, ...]:
    """The tokens on the edge to a node."""
    key = node.key
    return tuple(int(token) for token in getattr(key, "token_ids", key))


def evict_tokens(tree: Any, tokens: int, *, swa_tokens: int = 0) -> None:
    """Evict least recently used unlocked nodes until so many tokens came free."""
    from sglang.srt.mem_cache.base_prefix_cache import EvictParams

    tree.evict(EvictParams(num_tokens=tokens, swa_num_tokens=swa_tokens))

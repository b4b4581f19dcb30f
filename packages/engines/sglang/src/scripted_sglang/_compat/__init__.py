"""Every place where releases of SGLang differ, or where its objects are read by duck typing.

``needs`` has what is hooked and read as data; the other modules read objects, by subject.
"""

from __future__ import annotations

from scripted_sglang._compat.arrays import IntArray, as_array
from scripted_sglang._compat.pools import (
    capacity_tokens,
    free_pages,
    kv_allocators,
    window_slots,
)
from scripted_sglang._compat.requests import (
    abort_finish,
    decoding_rids,
    finish_reason_from,
    finish_reason_of,
    forward_mode_of,
    is_abort_notice,
    is_our_flush,
    kv_of,
    our_flush,
    rids_in,
    row_of,
)
from scripted_sglang._compat.scheduler import (
    admit_again,
    deferred_messages,
    empty_plan,
    is_in_flight,
    knows_length_ends_early,
    microbatches,
    pipeline_slots,
    placement,
    tokenizer_socket,
)
from scripted_sglang._compat.trees import (
    evict_tokens,
    evictable_tokens,
    identity_of,
    lock_node,
    lock_ref_of,
    native_node,
    node_at,
    node_token_ids,
    node_value_tokens,
    nodes_below,
    tree_nodes,
    tree_root,
    tree_tokens,
    unlock_node,
    watch_tree,
)

__all__ = [
    "IntArray",
    "abort_finish",
    "admit_again",
    "as_array",
    "capacity_tokens",
    "decoding_rids",
    "deferred_messages",
    "empty_plan",
    "evict_tokens",
    "evictable_tokens",
    "finish_reason_from",
    "finish_reason_of",
    "forward_mode_of",
    "free_pages",
    "identity_of",
    "is_abort_notice",
    "is_in_flight",
    "is_our_flush",
    "knows_length_ends_early",
    "kv_allocators",
    "kv_of",
    "lock_node",
    "lock_ref_of",
    "microbatches",
    "native_node",
    "node_at",
    "node_token_ids",
    "node_value_tokens",
    "nodes_below",
    "our_flush",
    "pipeline_slots",
    "placement",
    "rids_in",
    "row_of",
    "tokenizer_socket",
    "tree_nodes",
    "tree_root",
    "tree_tokens",
    "unlock_node",
    "watch_tree",
    "window_slots",
]

"""Every place where releases of SGLang differ, or where its objects are read by duck typing.

``needs`` has what is hooked and read as data; the other modules read objects, by subject.
"""

from __future__ import annotations

from scripted_sglang._compat.arrays import IntArray, as_array
from scripted_sglang._compat.pools import capacity_tokens, free_pages
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
    microbatches,
    pipeline_slots,
    placement,
    tokenizer_socket,
)
from scripted_sglang._compat.trees import (
    evict_tokens,
    lock_node,
    lock_ref_of,
    node_at,
    node_token_ids,
    node_value_tokens,
    tree_nodes,
    tree_root,
    tree_tokens,
    unlock_node,
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
    "finish_reason_from",
    "finish_reason_of",
    "forward_mode_of",
    "free_pages",
    "is_abort_notice",
    "is_in_flight",
    "is_our_flush",
    "kv_of",
    "lock_node",
    "lock_ref_of",
    "microbatches",
    "node_at",
    "node_token_ids",
    "node_value_tokens",
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
]

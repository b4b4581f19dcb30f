"""One request: what was asked, what has come out, and which memory it has now."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scripted_reference.memory import IntArray
from scripted_reference.tree_node import NO_SLOTS, TreeNode


class FinishKind(StrEnum):
    """Why a request ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class FinishReason:
    """The end of a request: its kind, and for a stop the token, for an abort the reason in words."""

    kind: FinishKind
    message: str | None = None
    matched_token: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How to generate. `temperature` and `seed` are kept but change nothing in a greedy model.

    As in SGLang, `ignore_eos` switches off `stop_token_ids` along with the end-of-sequence token.
    """

    max_new_tokens: int = 8
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    seed: int | None = None


class Req:
    """A request inside the scheduler, from its arrival to its finish.

    Attributes:
        rid: its id.
        arrival: its place in the order of arrival, from 0.
        origin_input_ids: the prompt.
        output_ids: the tokens generated so far; only ever appended to.
        priority: higher goes first, when the engine schedules by priority.
        finished_reason: `None` until it ends.
        fill_ids: the tokens whose KV the coming prefill has to bring about: prompt and output so far.
        extend_input_len: how many of them the coming prefill computes.
        prefix_indices: the slots of those it need not compute.
        last_node: the deepest tree node whose KV it uses; locked while the request has memory.
        req_pool_idx: its row, or `None` while it has none.
        cache_protected_len: so many slots from the start of its row belong to the tree, the others up
            to `kv_allocated_len` to itself.
        kv_committed_len: so many slots of its row hold valid KV.
        kv_allocated_len: so many entries of its row are slots it may use.
        is_chunked: chunks that are scheduled while their result is not processed.
        retraction_count: how often it went back to the waiting queue.
        max_new_tokens: the length limit, clipped to what context and pool can hold.
    """

    __slots__ = (
        "arrival",
        "cache_protected_len",
        "extend_input_len",
        "fill_ids",
        "finished_reason",
        "is_chunked",
        "kv_allocated_len",
        "kv_committed_len",
        "last_node",
        "max_new_tokens",
        "origin_input_ids",
        "output_ids",
        "prefix_indices",
        "priority",
        "req_pool_idx",
        "retraction_count",
        "rid",
        "sampling_params",
        "stop_ids",
    )

    def __init__(
        self,
        *,
        rid: str,
        origin_input_ids: list[int],
        sampling_params: SamplingParams,
        max_new_tokens: int,
        eos_token_id: int,
        arrival: int = 0,
        priority: int | None = None,
    ) -> None:
        self.rid = rid
        self.arrival = arrival
        self.origin_input_ids = origin_input_ids
        self.output_ids: list[int] = []
        self.sampling_params = sampling_params
        self.max_new_tokens = max_new_tokens
        self.priority = priority
        self.stop_ids: frozenset[int] = (
            frozenset()
            if sampling_params.ignore_eos
            else frozenset((eos_token_id, *sampling_params.stop_token_ids))
        )
        self.finished_reason: FinishReason | None = None
        self.retraction_count = 0
        self.fill_ids: tuple[int, ...] = ()
        self.forget_memory()

    @property
    def ignore_eos(self) -> bool:
        """Whether it runs on past the end-of-sequence token and its stop tokens."""
        return self.sampling_params.ignore_eos

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """The tokens that end it besides the end-of-sequence token."""
        return self.sampling_params.stop_token_ids

    @property
    def seq_len(self) -> int:
        """How many tokens it consists of so far: prompt and output."""
        return len(self.origin_input_ids) + len(self.output_ids)

    @property
    def remaining_kv_len(self) -> int:
        """How many slots it can still come to need beyond `seq_len`.

        The last token is sent out but never fed back, so its KV is never stored.
        """
        return max(self.max_new_tokens - len(self.output_ids) - 1, 0)

    def finished(self) -> bool:
        """Return whether it has ended."""
        return self.finished_reason is not None

    def init_next_round_input(self) -> None:
        """Fix what the coming prefill has to compute: everything known so far."""
        if len(self.fill_ids) != self.seq_len:
            self.fill_ids = (*self.origin_input_ids, *self.output_ids)

    def finish_after(self, token: int) -> FinishReason | None:
        """Return how the request ends with `token`, its newest output, or `None` if it goes on."""
        if len(self.output_ids) >= self.max_new_tokens:
            return FinishReason(FinishKind.LENGTH)
        if token in self.stop_ids:
            return FinishReason(FinishKind.STOP, matched_token=token)
        return None

    def forget_memory(self) -> None:
        """Note that its memory is gone, or that it has none yet."""
        self.req_pool_idx: int | None = None
        self.last_node: TreeNode | None = None
        self.prefix_indices: IntArray = NO_SLOTS
        self.extend_input_len = 0
        self.cache_protected_len = 0
        self.kv_committed_len = 0
        self.kv_allocated_len = 0
        self.is_chunked = 0

    def __repr__(self) -> str:
        reason = self.finished_reason.kind.value if self.finished_reason else "unfinished"
        return (
            f"Req({self.rid!r}, prompt={len(self.origin_input_ids)}, "
            f"output={len(self.output_ids)}/{self.max_new_tokens}, {reason})"
        )

"""One request: what was asked, what has come out, and which memory it has now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from scripted_reference.bootstrap import Bootstrap
from scripted_reference.memory import IntArray
from scripted_reference.tree_node import NO_SLOTS, TreeNode

if TYPE_CHECKING:
    from scripted_reference.models.base import TokenLogprobs


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
    """How to generate: greedily without a `temperature` or below 1e-6, else reproducibly at random.

    `seed` stands in for the engine's `random_seed` when the request samples. As in SGLang, `ignore_eos`
    switches off `stop_token_ids` along with the end-of-sequence token.
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
        kv_committed_len: so many slots of its row hold valid KV once the last batch that it is in has
            run.
        kv_allocated_len: so many entries of its row are slots it may use.
        swa_evicted_len: so many slots from the start of its row have no window slots of its own.
        swa_lock_start: from which position on it has locked window slots of the tree, if it has.
        is_chunked: chunks that are scheduled while their result is not processed.
        retraction_count: how often it went back to the waiting queue.
        spec_verify_ct: how often guesses for it were verified.
        max_new_tokens: the length limit, clipped to what context and pool can hold.
        return_logprob: whether log probabilities are wanted.
        logprob_start_len: from which prompt position on; -1 is none of the prompt.
        top_logprobs_num: how many of the likeliest tokens to name at each position.
        input_logprobs: those of the prompt from `logprob_start_len` on, as far as it is computed.
        output_logprobs: those of `output_ids`, one for each.
        lora_path: the name of its LoRA adapter.
        bootstrap: where the servers of a pair meet for it.
    """

    __slots__ = (
        "arrival",
        "bootstrap",
        "cache_protected_len",
        "extend_input_len",
        "fill_ids",
        "finished_reason",
        "input_logprobs",
        "is_chunked",
        "kv_allocated_len",
        "kv_committed_len",
        "last_node",
        "logprob_start_len",
        "lora_path",
        "max_new_tokens",
        "origin_input_ids",
        "output_ids",
        "output_logprobs",
        "prefix_indices",
        "priority",
        "req_pool_idx",
        "retraction_count",
        "return_logprob",
        "rid",
        "sampling_params",
        "spec_verify_ct",
        "stop_ids",
        "swa_evicted_len",
        "swa_lock_start",
        "top_logprobs_num",
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
        return_logprob: bool = False,
        logprob_start_len: int = -1,
        top_logprobs_num: int = 0,
        lora_path: str | None = None,
        bootstrap: Bootstrap | None = None,
    ) -> None:
        self.rid = rid
        self.bootstrap = bootstrap
        self.arrival = arrival
        self.origin_input_ids = origin_input_ids
        self.output_ids: list[int] = []
        self.sampling_params = sampling_params
        self.max_new_tokens = max_new_tokens
        self.priority = priority
        self.return_logprob = return_logprob
        self.logprob_start_len = logprob_start_len
        self.top_logprobs_num = top_logprobs_num
        self.input_logprobs: list[TokenLogprobs] = []
        self.output_logprobs: list[TokenLogprobs] = []
        self.lora_path = lora_path
        self.stop_ids: frozenset[int] = (
            frozenset()
            if sampling_params.ignore_eos
            else frozenset((eos_token_id, *sampling_params.stop_token_ids))
        )
        self.finished_reason: FinishReason | None = None
        self.retraction_count = 0
        self.spec_verify_ct = 0
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

    @property
    def reusable_len(self) -> int:
        """How many tokens of `fill_ids` may come from the prefix tree.

        The last token is always computed, since the next one is read off from it. So are the prompt
        positions that predict those whose log probabilities are wanted and not known yet.
        """
        limit = len(self.fill_ids) - 1
        if self.return_logprob and self.logprob_start_len >= 0:
            wanted = self.logprob_start_len + len(self.input_logprobs)
            if wanted < len(self.origin_input_ids):
                # It is the position before that predicts it.
                return min(limit, max(wanted - 1, 0))
        return limit

    def keep_input_logprobs(self, found: Sequence[TokenLogprobs], *, computed_from: int) -> None:
        """Add what a batch that computed from position `computed_from` on has found of the prompt.

        What is known already, from before a retraction, is passed over.
        """
        first = max(self.logprob_start_len, computed_from + 1 if computed_from else 0)
        known = self.logprob_start_len + len(self.input_logprobs) - first
        assert known >= 0, f"{self!r} lost the log probabilities before position {first}"
        self.input_logprobs.extend(found[known:])

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
        self.swa_evicted_len = 0
        self.swa_lock_start: int | None = None
        self.is_chunked = 0

    def __repr__(self) -> str:
        reason = self.finished_reason.kind.value if self.finished_reason else "unfinished"
        return (
            f"Req({self.rid!r}, prompt={len(self.origin_input_ids)}, "
            f"output={len(self.output_ids)}/{self.max_new_tokens}, {reason})"
        )

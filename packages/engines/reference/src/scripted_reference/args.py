"""The engine's arguments: those of SGLang's server arguments that this engine does something with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from scripted_registry.errors import ConfigError

from scripted_reference.argument_checks import (
    check_int,
    check_number,
    lora_folders,
    wrong_argument,
)
from scripted_reference.bootstrap import DEFAULT_BOOTSTRAP_PORT
from scripted_reference.memory_bounds import (
    POSITION_BYTES,
    ROW_BYTES,
    SLOT_BYTES,
    TABLE_ENTRY_BYTES,
    check_fits,
)

SMALL_MODEL: Final = "Qwen/Qwen3-0.6B"
"""The model name that scripts use for "any small model"; it is the `hash` model here."""

SMALL_SWA_MODEL: Final = "scripted/small-swa"
"""The name for "any small model with sliding windows"; here the `hash` model with one of 32 tokens."""

HASH_MODEL: Final = "hash"
TINY_MODEL: Final = "tiny"
"""The name of the small trained checkpoint."""

TINY_DRAFT_MODEL: Final = "tiny-draft"
"""The name of the smaller one of the same tokenizer, which guesses what it says."""


class DisaggregationMode(StrEnum):
    """Whether prompts are computed in the engine that decodes, or in another one."""

    NULL = "null"
    PAIR = "pair"
    PREFILL = "prefill"
    DECODE = "decode"


class SchedulePolicy(StrEnum):
    """The order of the waiting queue: first come, first served; or longest cached prefix first."""

    FCFS = "fcfs"
    LPM = "lpm"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerArgs:
    """The arguments of one engine; wrong values raise `ConfigError` at construction.

    Attributes:
        model_path: `"hash"`, `"tiny"` or a folder in Hugging Face format.
        chunked_prefill_size: tokens that a prefill batch computes at most, whole pages; -1 is no limit.
        max_total_tokens: size of the KV pool in tokens, rounded down to whole pages.
        max_running_requests: requests that can have memory at a time; also the number of rows.
        page_size: slots in a page.
        context_length: tokens that prompt and output of a request can have together; by default
            4096, or as many positions as the model was made for if that is less.
        max_prefill_tokens: tokens of a prefill batch after which no further request joins it.
        disable_radix_cache: whether to do without the prefix tree.
        schedule_policy: the order of the waiting queue.
        enable_priority_scheduling: whether a higher `priority` goes first.
        schedule_conservativeness: scales what admission reserves for the running requests' futures.
        random_seed: seed of the model's weights where they are not loaded, and of sampling.
        load_format: `"auto"` (or `"safetensors"`, the one format there is) reads weights, `"dummy"`
            draws them from `random_seed`.
        device: where a model with matrices computes, `"cpu"` or `"cuda"` (also `"cuda:1"`).
        dp_size: scheduler replicas behind one front, at most 64: each has a model of its own.
        pp_size: pipeline stages, each with some of the layers and pools of its own; 1 for all in one.
        pp_async_batch_depth: microbatch slots beyond one for each stage: so many batches more are in
            flight, and results are processed so much later.
        pp_max_micro_batch_size: requests that a slot can have; by default its share of
            `max_running_requests`.
        disable_overlap_schedule: whether results are processed in the iteration that computes them,
            not in the one after it. Always so with several stages, whose results are late anyhow.
        enable_lora: whether requests may name an adapter; on as soon as `lora_paths` has one.
        json_model_override_args: what to change in the model's `config.json`, as JSON text or a mapping.
            Of the `hash` model it is `sliding_window`, which it has none of without it.
        swa_full_tokens_ratio: size of the window pool as a part of `max_total_tokens`, for a model with
            sliding-window layers.
        disable_hybrid_swa_memory: whether such a model does without a window pool of its own.
        lora_paths: LoRA adapters by name, folders in PEFT format. As in SGLang it may be given as a list
            of `"name=folder"`, or of folders that are then their own names.
        enable_metrics: whether the server has `/metrics`.
        enable_metrics_device_timer: whether forwards are timed, for the gauge `fwd_occupancy`. A server
            also does it when `SGLANG_ENABLE_METRICS_DEVICE_TIMER=1` is set, as SGLang's does.
        served_model_name: what the server calls its model; `model_path` by default.
        speculative_algorithm: decode by guessing and verifying, see `speculation`: `"EAGLE"`, `"EAGLE3"`
            or `"STANDALONE"`, which all are a draft model of its own here, or `"NGRAM"`, which looks up
            what followed the same tokens before.
        speculative_draft_model_path: `"tiny-draft"`, or a folder with a model of the same tokenizer.
        speculative_num_steps: guesses of an iteration, at most.
        speculative_eagle_topk: 1, a chain.
        speculative_num_draft_tokens: `speculative_num_steps` + 1, or left out; of `"NGRAM"` it decides.
        speculative_ngram_max_trie_depth: tokens of the longest n-gram that is looked up.
        disaggregation_mode: `"null"`, or `"pair"`: a prefill and a decode engine under one script. A
            server may also be one of the two, `"prefill"` or `"decode"`, behind a router.
        disaggregation_bootstrap_port: on which a prefill server meets decode servers.
        num_reserved_decode_tokens: of a pair, tokens that the decode engine sets aside for each request
            that it has, as far as that can come to need them.
        transfer_timeout_iterations: of a pair, after how many iterations with nothing on its way any
            more a request fails whose KV is incomplete.
        prefill_kwargs, decode_kwargs: of a pair, arguments that one of the engines has otherwise.
        kv_canary: what a KV canary does about a slot that does not hold what it should, if
            `scripted-canary` is there: `"none"`, `"log"` or `"raise"`. The default is `"raise"` for the
            model `tiny` in the process of its scripts, else `"none"`.
        kv_canary_real_data: how much of each slot's KV it hashes: `"none"`, `"partial"` or `"all"`.
        kv_canary_sweep_interval: after so many forwards it verifies all of the prefix tree; 0 for never.
        inject_fault: for tests of tests: the name of a seeded fault, see `docs/faults.md`.
        without_effect: the names that were given and change nothing.
    """

    model_path: str = HASH_MODEL
    chunked_prefill_size: int = 2048
    max_total_tokens: int = 8192
    max_running_requests: int = 16
    page_size: int = 1
    context_length: int = 4096
    max_prefill_tokens: int = 16384
    disable_radix_cache: bool = False
    schedule_policy: SchedulePolicy = SchedulePolicy.FCFS
    enable_priority_scheduling: bool = False
    schedule_conservativeness: float = 1.0
    random_seed: int = 0
    load_format: str = "auto"
    device: str = "cpu"
    dp_size: int = 1
    pp_size: int = 1
    pp_async_batch_depth: int = 0
    pp_max_micro_batch_size: int | None = None
    disable_overlap_schedule: bool = True
    json_model_override_args: Mapping[str, Any] = field(default_factory=dict)
    swa_full_tokens_ratio: float = 0.8
    disable_hybrid_swa_memory: bool = False
    enable_lora: bool = False
    lora_paths: Mapping[str, str] = field(default_factory=dict)
    enable_metrics: bool = False
    enable_metrics_device_timer: bool = False
    served_model_name: str | None = None
    speculative_algorithm: str | None = None
    speculative_draft_model_path: str | None = None
    speculative_num_steps: int = 3
    speculative_eagle_topk: int = 1
    speculative_num_draft_tokens: int | None = None
    speculative_ngram_max_trie_depth: int = 18
    disaggregation_mode: str = DisaggregationMode.NULL
    disaggregation_bootstrap_port: int = DEFAULT_BOOTSTRAP_PORT
    num_reserved_decode_tokens: int = 512
    transfer_timeout_iterations: int = 16
    prefill_kwargs: Mapping[str, Any] = field(default_factory=dict)
    decode_kwargs: Mapping[str, Any] = field(default_factory=dict)
    kv_canary: str | None = None
    kv_canary_real_data: str | None = None
    kv_canary_sweep_interval: int | None = None
    inject_fault: str | None = None
    without_effect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            check_int(name, getattr(self, name), least=least)
        if self.dp_size > _MOST_REPLICAS:
            raise wrong_argument(
                "dp_size",
                self.dp_size,
                "is too large: each replica has a scheduler and a model of its own",
                f"use {_MOST_REPLICAS} or less",
            )
        self._check_stages()
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise wrong_argument(
                    name, getattr(self, name), "is not a bool", "use True or False"
                )
        check_number("schedule_conservativeness", self.schedule_conservativeness)
        check_number("swa_full_tokens_ratio", self.swa_full_tokens_ratio, most=1.0)
        if self.schedule_policy not in tuple(SchedulePolicy):
            known = ", ".join(repr(policy.value) for policy in SchedulePolicy)
            raise wrong_argument(
                "schedule_policy", self.schedule_policy, "is no policy here", f"use one of {known}"
            )
        object.__setattr__(self, "schedule_policy", SchedulePolicy(self.schedule_policy))
        self._check_overrides()
        self._check_model()
        self._check_lora()
        self._check_sizes()
        from scripted_reference.pd.arguments import check_pair  # it imports this module

        check_pair(self)
        from scripted_reference.speculation.arguments import (
            check_speculation,  # it imports this, too
        )

        check_speculation(self)
        for name, allowed in _CANARY.items():
            if getattr(self, name) not in (None, *allowed):
                hint = f"use one of {', '.join(map(repr, allowed))}"
                raise wrong_argument(name, getattr(self, name), "is unknown here", hint)
        if self.kv_canary_sweep_interval is not None:
            check_int("kv_canary_sweep_interval", self.kv_canary_sweep_interval, least=0)
        if self.inject_fault is not None:
            from scripted_reference.faults.catalogue import check_name  # it imports the engine

            check_name(self.inject_fault)

    @property
    def chunk_tokens(self) -> int | None:
        """Tokens in a prefill batch at most; `None` when prompts are never chunked."""
        return None if self.chunked_prefill_size == -1 else self.chunked_prefill_size

    @property
    def micro_batch_size(self) -> int:
        """Requests that a microbatch slot can have."""
        return self.pp_max_micro_batch_size or max(self.max_running_requests // self.pp_size, 1)

    def _check_stages(self) -> None:
        if self.pp_max_micro_batch_size is not None:
            check_int("pp_max_micro_batch_size", self.pp_max_micro_batch_size, least=1)
        if self.pp_size == 1:
            return
        if self.pp_size > _MOST_STAGES or self.pp_async_batch_depth > _MOST_STAGES:
            raise ConfigError(
                f"engine arguments pp_size={self.pp_size} and "
                f"pp_async_batch_depth={self.pp_async_batch_depth} are too large",
                hint=f"use {_MOST_STAGES} or less for each",
            )
        for name, neutral in (("dp_size", 1), ("disaggregation_mode", DisaggregationMode.NULL)):
            if getattr(self, name) != neutral:
                raise ConfigError(
                    f"engine arguments pp_size={self.pp_size} and {name}={getattr(self, name)!s} do "
                    "not go together in the reference engine",
                    hint="use one of them",
                )
        # As SGLang does: the result of a batch is waited for a whole turn later anyhow.
        object.__setattr__(self, "disable_overlap_schedule", True)

    def window_pool_tokens(self, window: int) -> int:
        """Return the size of the window pool for a sliding window of so many tokens, in whole pages.

        Raises `ConfigError` when a request could not get on in it: it needs the window before a chunk,
        and the chunk.
        """
        pages = int(self.max_total_tokens // self.page_size * self.swa_full_tokens_ratio)
        size = pages * self.page_size
        least = window + (self.chunk_tokens or 0) + 2 * self.page_size
        if size < least:
            raise ConfigError(
                f"swa_full_tokens_ratio={self.swa_full_tokens_ratio} of "
                f"max_total_tokens={self.max_total_tokens} makes a window pool of {size} tokens, and "
                f"a window of {window} with the next chunk takes {least}",
                hint="raise swa_full_tokens_ratio or max_total_tokens, or lower chunked_prefill_size",
            )
        return size

    def _check_overrides(self) -> None:
        name = "json_model_override_args"
        given: object = self.json_model_override_args
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError as error:
                raise wrong_argument(
                    name, given, f"is no JSON: {error}", 'give an object: {"sliding_window": 32}'
                ) from error
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise wrong_argument(
                name, given, "is no object", 'give an object: {"sliding_window": 32}'
            )
        object.__setattr__(self, name, dict(given))

    def _check_model(self) -> None:
        if not isinstance(self.model_path, str) or not self.model_path:
            raise wrong_argument(
                "model_path",
                self.model_path,
                "is no model",
                f"use {HASH_MODEL!r}, {TINY_MODEL!r} or a folder in Hugging Face format",
            )
        if self.load_format not in _LOAD_FORMATS:
            raise wrong_argument(
                "load_format",
                self.load_format,
                "is unknown here",
                f"use one of {', '.join(map(repr, _LOAD_FORMATS))}",
            )
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise wrong_argument("device", self.device, "is no device here", "use 'cpu' or 'cuda'")
        served = self.served_model_name
        if served is not None and (not isinstance(served, str) or not served):
            raise wrong_argument(
                "served_model_name", served, "is no name", "use a string, or drop it"
            )
        if self.model_path == SMALL_MODEL:
            object.__setattr__(self, "model_path", HASH_MODEL)
        if self.model_path == SMALL_SWA_MODEL:
            overrides = {"sliding_window": _SMALL_WINDOW_TOKENS, **self.json_model_override_args}
            object.__setattr__(self, "model_path", HASH_MODEL)
            object.__setattr__(self, "json_model_override_args", overrides)

    def _check_lora(self) -> None:
        paths = lora_folders(self.lora_paths)
        object.__setattr__(self, "lora_paths", paths)
        if not paths:
            return
        if self.model_path == HASH_MODEL:
            raise wrong_argument(
                "lora_paths",
                dict(paths),
                f"is refused: the {HASH_MODEL!r} model has no weights to adapt",
                f"use model_path={TINY_MODEL!r} or a folder in Hugging Face format",
            )
        object.__setattr__(self, "enable_lora", True)

    def _check_sizes(self) -> None:
        chunk = self.chunked_prefill_size
        if chunk == 0 or chunk < -1:
            raise wrong_argument(
                "chunked_prefill_size", chunk, "is no size", "use -1 for no chunks"
            )
        if chunk != -1 and chunk % self.page_size:
            raise ConfigError(
                f"chunked_prefill_size={chunk} is no multiple of page_size={self.page_size}",
                hint=f"chunks are whole pages; use "
                f"{max(chunk // self.page_size, 1) * self.page_size}",
            )
        if self.max_total_tokens < self.page_size:
            raise ConfigError(
                f"max_total_tokens={self.max_total_tokens} is less than one page of "
                f"{self.page_size} tokens",
                hint=f"use at least {self.page_size}",
            )
        self._check_memory()

    def _check_memory(self) -> None:
        """Refuse what would not fit; the KV of a model with matrices is checked when that is loaded."""
        tokens, rows, context = (
            self.max_total_tokens,
            self.max_running_requests,
            self.context_length,
        )
        needs = {
            f"engine argument max_total_tokens={tokens}": tokens * SLOT_BYTES,
            f"engine argument max_running_requests={rows}": rows * ROW_BYTES,
            f"engine argument context_length={context}": context * POSITION_BYTES,
            f"the table of engine arguments max_running_requests={rows} and "
            f"context_length={context}": rows * context * TABLE_ENTRY_BYTES,
        }
        check_fits(
            {cause: self.dp_size * size for cause, size in needs.items()},
            hint="use smaller sizes",
        )


_SMALL_WINDOW_TOKENS: Final = 32
_FLAGS: Final = (
    "disable_hybrid_swa_memory",
    "disable_radix_cache",
    "enable_priority_scheduling",
    "disable_overlap_schedule",
    "enable_lora",
    "enable_metrics",
    "enable_metrics_device_timer",
)
_CANARY: Final[Mapping[str, tuple[str, ...]]] = {
    "kv_canary": ("none", "log", "raise"),
    "kv_canary_real_data": ("none", "partial", "all"),
}
_MOST_REPLICAS: Final = 64
_MOST_STAGES: Final = 16
_LOAD_FORMATS: Final = ("auto", "safetensors", "dummy")
_DEVICE: Final = re.compile(r"cpu|cuda(:\d+)?")

_LEAST: Final[Mapping[str, int]] = {
    "chunked_prefill_size": -1,
    "max_total_tokens": 1,
    "max_running_requests": 1,
    "page_size": 1,
    "context_length": 2,
    "max_prefill_tokens": 1,
    "random_seed": 0,
    "dp_size": 1,
    "speculative_num_steps": 1,
    "speculative_eagle_topk": 1,
    "speculative_ngram_max_trie_depth": 1,
    "num_reserved_decode_tokens": 0,
    "transfer_timeout_iterations": 1,
    "pp_size": 1,
    "pp_async_batch_depth": 0,
    "disaggregation_bootstrap_port": 1,
}

"""What the adapter hooks and reads of SGLang, and where each of the releases has it.

Plain data: nothing of SGLang is imported, so that an installed release can be looked through
without starting it (``scripted_sglang.probes``) and hooked by the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Place:
    """A name in SGLang: ``module`` below ``sglang.srt``, ``owner`` a class in it or empty."""

    module: str
    owner: str
    name: str

    @property
    def dotted(self) -> str:
        """The whole path, as SGLang's hook registry takes it."""
        return ".".join(filter(None, ("sglang.srt", self.module, self.owner, self.name)))

    @property
    def short(self) -> str:
        """As one would say it: ``Scheduler.run_batch``."""
        return f"{self.owner}.{self.name}" if self.owner else self.name


@dataclass(frozen=True)
class Need:
    """Something that the adapter needs, in the places where releases have it, newest first.

    ``loses`` says what a script lacks where none of the places exists. Without a ``required`` one
    no session can be started.
    """

    places: tuple[Place, ...]
    purpose: str
    loses: str
    required: bool = True

    @property
    def name(self) -> str:
        """Its name in the newest release."""
        return self.places[0].short


_SCHEDULER: Final = "managers.scheduler"
_RECEIVER: Final = "managers.scheduler_components.request_receiver"
_POOL_STATS: Final = "managers.scheduler_components.pool_stats_observer"
_SENDER: Final = Place(
    "managers.scheduler_components.output_sender", "SenderWrapper", "send_output"
)
_ALL: Final = "everything"


def _in_scheduler(name: str) -> tuple[Place, ...]:
    return (Place(_SCHEDULER, "Scheduler", name),)


def _in_receiver(name: str) -> tuple[Place, ...]:
    return (Place(_RECEIVER, "SchedulerRequestReceiver", name),)


def _in_pool_stats(name: str) -> tuple[Place, ...]:
    return (Place(_POOL_STATS, "SchedulerPoolStatsObserver", name),)


RUN_EVENT_LOOP: Final = Need(
    _in_scheduler("run_event_loop"), "attach to the scheduler, report its death", _ALL
)
RECV_REQUESTS: Final = Need(_in_receiver("recv_requests"), "one step of the script", _ALL)
PULL_RAW_REQS: Final = Need(
    _in_receiver("_pull_raw_reqs"), "the order of arrival, control and memory operations", _ALL
)
PROCESS_INPUT_REQUESTS: Final = Need(
    _in_scheduler("process_input_requests"), "memory operations on every rank", _ALL
)
RUN_BATCH: Final = Need(_in_scheduler("run_batch"), "the batch log and chunk counts", _ALL)
STREAM_OUTPUT: Final = Need(
    (
        Place(
            "managers.scheduler_components.output_streamer",
            "SchedulerOutputStreamer",
            "stream_output",
        ),
    ),
    "ends of requests, with their reason",
    _ALL,
)
# Up to 0.5.20 a scheduler tells of such an end through the sender that all its replies go through.
SEND_ABORT_OUTPUT: Final = Need(
    (
        *_in_scheduler("send_abort_output"),
        _SENDER,
    ),
    "ends of requests that are aborted while they wait",
    "the end of a request that was aborted while it waited",
)
SEND_OUTPUT: Final = Need(
    (_SENDER,),
    "swallow the answer to a flush of ours, for which nobody waits",
    "flush_cache, and the reset by it: up to 0.5.15 the answer ends the server",
)
FLUSH_CACHE: Final = Need(
    _in_scheduler("flush_cache"), "holds across a flush", "flush_cache, and the reset by it"
)
_PAUSED_PIPELINE: Final = "pause_generation with pp_size above 1"


def _for_a_paused_pipeline(name: str, purpose: str) -> Need:
    return Need(_in_scheduler(name), purpose, _PAUSED_PIPELINE, required=False)


PAUSE_GENERATION: Final = _for_a_paused_pipeline("pause_generation", "pause a pipeline")
CONTINUE_GENERATION: Final = _for_a_paused_pipeline(
    "continue_generation", "continue a pipeline once its pause is complete"
)
GET_NEXT_BATCH_TO_RUN: Final = _for_a_paused_pipeline(
    "get_next_batch_to_run", "run nothing in a paused pipeline"
)
ABORT_REQUEST: Final = _for_a_paused_pipeline("abort_request", "abort in a paused pipeline")
IS_FULLY_IDLE: Final = _for_a_paused_pipeline("is_fully_idle", "idleness of a paused pipeline")
SESSION_HELD_TOKENS: Final = Need(
    _in_pool_stats("session_held_tokens"),
    "declare held KV pages to SGLang's leak check",
    "exhaust_kv: SGLang's leak check ends the scheduler",
    required=False,
)
# Of a hybrid model, 0.5.20 asks for this one instead. Where it is not there, it is the one above again.
SESSION_HELD_FULL_TOKENS: Final = Need(
    (*_in_pool_stats("session_held_full_tokens"), *_in_pool_stats("session_held_tokens")),
    SESSION_HELD_TOKENS.purpose,
    SESSION_HELD_TOKENS.loses,
    required=False,
)
SESSION_HELD_SWA_TOKENS: Final = Need(
    _in_pool_stats("session_held_swa_tokens"),
    "declare held pages of sliding windows to SGLang's leak check",
    "exhaust_kv of the pool swa: SGLang's leak check ends the scheduler",
    required=False,
)
SESSION_HELD_REQ_COUNT: Final = Need(
    _in_pool_stats("session_held_req_count"),
    "declare held rows to SGLang's leak check",
    "exhaust_row_pool: SGLang's leak check ends the scheduler",
    required=False,
)
FORWARD: Final = Need(
    (Place("managers.tp_worker", "TpModelWorker", "forward_batch_generation"),),
    "verify KV before a forward, and record it after",
    "kv_canary, t.canary and t.perturb",
    required=False,
)

_TORCH_NATIVE: Final = ("layers.attention.torch_native_backend", "TorchNativeAttnBackend")
WINDOW_EXTEND: Final = Need(
    (Place(*_TORCH_NATIVE, "_run_sdpa_forward_extend"),),
    "read sliding windows by their own slots on a CPU, which SGLang does not",
    "right outputs of sliding-window models on a CPU",
    required=False,
)
WINDOW_DECODE: Final = Need(
    (Place(*_TORCH_NATIVE, "_run_sdpa_forward_decode"),),
    WINDOW_EXTEND.purpose,
    WINDOW_EXTEND.loses,
    required=False,
)
LORA_MANAGER: Final = Need(
    (Place("lora.lora_manager", "LoRAManager", "__init__"),),
    "do without pinned memory on a CPU, which SGLang's LoRA asks for",
    "LoRA on a CPU",
    required=False,
)
OWN_CANARY: Final = Need(
    (Place("kv_canary.runner.canary_manager", "CanaryManager", "__init__"),),
    "give SGLang's own KV canary a stream on a CPU, and memory that is not pinned",
    "SGLang's own KV canary on a CPU",
    required=False,
)

_PAIR: Final = "disaggregation_mode='pair'"
_CONN: Final = "disaggregation.common.conn"
_MOONCAKE: Final = "disaggregation.mooncake.conn"


def _for_a_pair(place: Place, purpose: str) -> Need:
    return Need((place,), purpose, _PAIR, required=False)


MOONCAKE_MANAGER: Final = _for_a_pair(
    Place(_MOONCAKE, "MooncakeKVManager", "__init__"),
    "send KV on a CPU without pinned memory, which SGLang asks for",
)
KV_SEND: Final = _for_a_pair(
    Place(_CONN, "CommonKVManager", "_send_multipart_locked"), "count messages between servers"
)
KV_BOOTSTRAP_MESSAGE: Final = _for_a_pair(
    Place(_CONN, "CommonKVReceiver", "_send_bootstrap_message"), KV_SEND.purpose
)
KV_ABORT_NOTIFICATION: Final = _for_a_pair(
    Place(_CONN, "CommonKVReceiver", "_send_abort_notification"), KV_SEND.purpose
)
KV_RECEIVE: Final = _for_a_pair(
    Place(_CONN, "CommonKVManager", "_make_worker_recv"), KV_SEND.purpose
)
KV_STATUS: Final = _for_a_pair(
    Place(_CONN, "CommonKVManager", "apply_prefill_status"), "hold transfers"
)
KV_CHUNK_PUT: Final = _for_a_pair(
    Place("disaggregation.common.utils", "FastQueue", "put"), "wait until KV has been sent"
)
KV_CHUNK_GET: Final = _for_a_pair(
    Place("disaggregation.common.utils", "FastQueue", "get"), KV_CHUNK_PUT.purpose
)
KV_RECOMPUTE: Final = _for_a_pair(
    Place(_CONN, "CommonKVManager", "submit_prefill_recompute"),
    "wait until a retracted request is with the prefill server again",
)

# Only in a server of a pair: what they are in is slow to import, and nothing to any other.
PAIR_HOOKS: Final = (
    MOONCAKE_MANAGER,
    KV_SEND,
    KV_BOOTSTRAP_MESSAGE,
    KV_ABORT_NOTIFICATION,
    KV_RECEIVE,
    KV_STATUS,
    KV_CHUNK_PUT,
    KV_CHUNK_GET,
    KV_RECOMPUTE,
)

CORES_OF_EVERY_RANK: Final = Place("utils.numa_utils", "", "init_threads_binding")
"""Where a core is named for each rank; without it (0.5.15) for those of a tensor parallel group only."""

HOOKS: Final = (
    RUN_EVENT_LOOP,
    RECV_REQUESTS,
    PULL_RAW_REQS,
    PROCESS_INPUT_REQUESTS,
    RUN_BATCH,
    STREAM_OUTPUT,
    SEND_ABORT_OUTPUT,
    SEND_OUTPUT,
    FLUSH_CACHE,
    PAUSE_GENERATION,
    CONTINUE_GENERATION,
    GET_NEXT_BATCH_TO_RUN,
    ABORT_REQUEST,
    IS_FULLY_IDLE,
    SESSION_HELD_TOKENS,
    SESSION_HELD_FULL_TOKENS,
    SESSION_HELD_SWA_TOKENS,
    SESSION_HELD_REQ_COUNT,
    FORWARD,
    WINDOW_EXTEND,
    WINDOW_DECODE,
    LORA_MANAGER,
    OWN_CANARY,
    *PAIR_HOOKS,
)


def _read(purpose: str, loses: str, *places: Place, required: bool = True) -> Need:
    return Need(places, purpose, loses, required)


def _each(module: str, owner: str, names: str, purpose: str, loses: str = _ALL) -> tuple[Need, ...]:
    return tuple(_read(purpose, loses, Place(module, owner, name)) for name in names.split())


_BATCHES: Final = "managers.schedule_batch"
_IO: Final = "managers.io_struct"
_TREES: Final = ("mem_cache.unified_radix_cache", "UnifiedRadixCache")
_LEGACY_TREE: Final = ("mem_cache.radix_cache", "RadixCache")
_ALLOCATOR: Final = ("mem_cache.allocator.base", "BaseTokenToKVPoolAllocator")
_TREE_LOSES: Final = "prefix tree, lock refs, evict_radix"

ATTRIBUTES: Final = (
    *_each("plugins.hook_registry", "HookRegistry", "register", "every hook"),
    *_each(
        _SCHEDULER,
        "Scheduler",
        "ipc_channels waiting_queue running_batch last_batch chunked_req _engine_paused tree_cache "
        "req_to_token_pool token_to_kv_pool_allocator page_size model_config enable_overlap "
        "chunked_prefill_size enable_lora is_fully_idle",
        "state of the scheduler",
    ),
    *_each(
        "managers.scheduler_components.ipc_channels",
        "SchedulerIpcChannels",
        "recv_from_tokenizer",
        "the inbox",
    ),
    *_each(_RECEIVER, "SchedulerRequestReceiver", "recv_from_tokenizer recv_from_rpc", "the inbox"),
    _read(
        "names of ranks in messages",
        "the rank in a report of a scheduler's death",
        Place("runtime_context", "", "get_parallel"),
        *_in_scheduler("ps"),
        required=False,
    ),
    _read(
        "results of batches that are still out",
        "requests of the batch whose result is out",
        *_in_scheduler("result_queue"),
        required=False,
    ),
    *_each(
        _BATCHES,
        "Req",
        "rid origin_input_ids output_ids last_node finished finished_output finished_reason",
        "state of a request",
    ),
    _read(
        "the end of a request that a draft goes past",
        "outputs of a request that ends within an accepted draft",
        Place(_BATCHES, "Req", "finished_len"),
        required=False,
    ),
    *(
        _read(
            "memory of a request",
            _ALL,
            Place(_BATCHES, "ReqKvInfo", name),
            Place(_BATCHES, "Req", name),
        )
        for name in ("req_pool_idx", "kv_allocated_len", "cache_protected_len")
    ),
    *_each(_BATCHES, "ScheduleBatch", "reqs forward_mode batch_is_full", "the batch log"),
    *_each(
        "mem_cache.memory_pool",
        "ReqToTokenPool",
        "size free_slots req_to_token available_size",
        "rows",
    ),
    *_each(*_ALLOCATOR, "size available_size alloc free", "the KV pool"),
    _read(
        "who owns each page",
        "the check of who owns each page",
        Place(*_ALLOCATOR, "get_all_free_pages"),
        Place(*_ALLOCATOR, "release_pages"),
    ),
    _read(
        "nodes of the prefix tree",
        _TREE_LOSES,
        Place(*_TREES, "tree_core"),
        Place(*_LEGACY_TREE, "root_node"),
    ),
    *(
        _read("the prefix tree", _TREE_LOSES, Place(*_TREES, name), Place(*_LEGACY_TREE, name))
        for name in ("inc_lock_ref", "dec_lock_ref", "evict", "evictable_size", "disable")
    ),
    *_each("mem_cache.base_prefix_cache", "", "EvictParams", "eviction", "evict_radix"),
    *_each("mem_cache.base_prefix_cache", "IncLockRefResult", "to_dec_params", "lock refs"),
    *_each(_IO, "", "sock_recv TokenizedGenerateReqInput", "the inbox"),
    *_each(
        _IO,
        "",
        "PauseGenerationReqInput ContinueGenerationReqInput AbortReq FlushCacheReqInput",
        "control messages",
    ),
)

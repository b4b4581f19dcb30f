"""``ScriptedContext``: the whole surface that a script uses."""

from __future__ import annotations

from typing import Any, Literal

from scripted_core.capabilities import Capability
from scripted_core.context import memory, queries
from scripted_core.context.pair import PairSide, PairTransfer
from scripted_core.context.req_starter import ScriptedContextReqStarter
from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_core.handle import ScriptedReqHandle, require_handle
from scripted_core.ops import Abort, AbortAll, Continue, ControlReceipt, Evict, Flush, Pause
from scripted_core.ports import EnginePort, SchedulerHookPort
from scripted_core.ranks import RankView
from scripted_core.requests import ClientStream
from scripted_core.views import (
    ControlVia,
    FinishReason,
    ForwardMode,
    PauseMode,
    QueueView,
    RequestStatus,
    RequestView,
    ScriptedBatchRecord,
    Side,
)


class ScriptedContext:
    """Control of, and a look into, one engine; it exists on the driver rank only.

    ``scheduler_hook`` is the hook in the scheduler's process; ``tokenizer_recv_proxy`` and
    ``http_poster`` are ``None`` on an engine that has no HTTP front. Every control call takes
    effect in the coming iteration, in call order: look at its effect after the next ``yield``.
    """

    def __init__(
        self,
        *,
        scheduler_hook: SchedulerHookPort,
        tokenizer_recv_proxy: Any | None = None,
        http_poster: Any | None = None,
    ) -> None:
        self.hook = scheduler_hook
        self.tokenizer_recv_proxy = tokenizer_recv_proxy
        self.http_poster = http_poster
        self._starter = ScriptedContextReqStarter(self)
        self._ended = False

    def end(self) -> None:
        """The script is over: this context still answers questions, and acts no more."""
        self._ended = True

    @property
    def acting_hook(self) -> SchedulerHookPort:
        """The hook, for calls that do something; ``ConfigError`` once the script has ended."""
        if self._ended:
            raise ConfigError(
                "this t belongs to a script that has ended",
                hint="use the t that the running script was called with; do not keep one",
            )
        return self.hook

    # -- what there is -------------------------------------------------------------------------

    @property
    def scheduler(self) -> Any:
        """The engine's own scheduler; a portable script uses the neutral views instead."""
        return self.hook.scheduler

    @property
    def engine(self) -> EnginePort:
        """The engine's port: pools, rows and prefix tree by protocol."""
        return self.hook.engine

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the engine can do."""
        return self.engine.capabilities

    @property
    def prefill(self) -> PairSide:
        """The prefill engine of a prefill/decode pair, alone."""
        return PairSide(self, Side.PREFILL)

    @property
    def decode(self) -> PairSide:
        """The decode engine of a prefill/decode pair, alone."""
        return PairSide(self, Side.DECODE)

    @property
    def transfer(self) -> PairTransfer:
        """The KV transfer of a prefill/decode pair."""
        return PairTransfer(self)

    @property
    def canary(self) -> Any:
        """The KV canary of this engine (``scripted-canary``): its violations and figures."""
        return memory.tool(self, "canary")

    @property
    def perturb(self) -> Any:
        """Breaks KV slots on purpose (``scripted-canary``), for what a canary has to find."""
        return memory.tool(self, "perturb")

    @property
    def has_ended(self) -> bool:
        """Whether the script is over."""
        return self._ended

    def require(self, capability: Capability, what: str) -> None:
        """Raise ``CapabilityMissing`` (the test is skipped) unless the engine has it."""
        if capability not in self.capabilities:
            raise CapabilityMissing(
                f"{what} needs the capability {capability.value!r}, "
                f"which engine {self.engine.name!r} does not have"
            )

    # -- requests ------------------------------------------------------------------------------

    def start_req(
        self,
        *,
        prompt_len: int | None = None,
        max_new_tokens: int = 8,
        rid: str | None = None,
        ignore_eos: bool = False,
        priority: int | None = None,
        dp_rank: int | None = None,
        prompt_token: int = 1,
        return_logprob: bool = False,
        logprob_start_len: int | None = None,
        top_logprobs_num: int | None = None,
        stop_token_ids: list[int] | None = None,
        temperature: float | None = None,
        lora_path: str | None = None,
        input_ids: list[int] | tuple[int, ...] | None = None,
        seed: int | None = None,
    ) -> ScriptedReqHandle:
        """Start one request; returns once it has arrived in the engine's inbox.

        The prompt is ``prompt_len`` × ``prompt_token``, or ``prompt_len`` random tokens of
        ``seed``, or ``input_ids``. A request that the engine refuses before its inbox comes back
        as a finished handle with the reason.
        """
        return self._starter.start_req(
            prompt_len=prompt_len,
            max_new_tokens=max_new_tokens,
            rid=rid,
            ignore_eos=ignore_eos,
            priority=priority,
            dp_rank=dp_rank,
            prompt_token=prompt_token,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            stop_token_ids=stop_token_ids,
            temperature=temperature,
            lora_path=lora_path,
            input_ids=input_ids,
            seed=seed,
        )

    def handle(self, rid: str) -> ScriptedReqHandle:
        """A handle for any rid, known or not."""
        return ScriptedReqHandle(rid=rid, context=self)

    # -- control -------------------------------------------------------------------------------

    def pause_generation(
        self,
        *,
        mode: Literal["retract", "in_place"] | PauseMode,
        via: Literal["inbox", "http"] | ControlVia = ControlVia.INBOX,
    ) -> ControlReceipt:
        """Stop progress: ``retract`` sends all running requests back, ``in_place`` freezes them."""
        try:
            chosen = PauseMode(mode)
        except ValueError:
            raise ConfigError(
                f"pause_generation: unknown mode {mode!r}",
                hint=f"one of {', '.join(repr(m.value) for m in PauseMode)}",
            ) from None
        if chosen is PauseMode.IN_PLACE:
            self.require(Capability.PAUSE_IN_PLACE, "pause_generation(mode='in_place')")
        else:
            self.require(Capability.RETRACT, "pause_generation(mode='retract')")
        return self.acting_hook.post(Pause(mode=chosen), via_http=_over_http(self, via))

    def continue_generation(
        self,
        *,
        torch_empty_cache: bool = False,
        via: Literal["inbox", "http"] | ControlVia = ControlVia.INBOX,
    ) -> ControlReceipt:
        """Undo a pause."""
        return self.acting_hook.post(
            Continue(torch_empty_cache=torch_empty_cache), via_http=_over_http(self, via)
        )

    def abort(
        self,
        handle: ScriptedReqHandle,
        *,
        await_arrival: bool = True,
        via: Literal["inbox", "http"] | ControlVia = ControlVia.INBOX,
    ) -> ControlReceipt:
        """End one request at whatever stage it is in.

        ``await_arrival`` waits until the abort is in the inbox. Through the inbox it always is when
        the call returns; with ``via="http"`` it decides whether the call waits for it.
        """
        rid = require_handle("abort", handle).rid
        return self.acting_hook.post(
            Abort(rid=rid), via_http=_over_http(self, via), await_arrival=await_arrival
        )

    def abort_all(
        self, *, via: Literal["inbox", "http"] | ControlVia = ControlVia.INBOX
    ) -> ControlReceipt:
        """End every request."""
        return self.acting_hook.post(AbortAll(), via_http=_over_http(self, via))

    def flush_cache(
        self, *, via: Literal["inbox", "http"] | ControlVia = ControlVia.INBOX
    ) -> ControlReceipt:
        """Empty the prefix tree if the engine is idle; ``.ok`` of the receipt says if it was."""
        return self.acting_hook.post(Flush(), via_http=_over_http(self, via))

    # -- memory --------------------------------------------------------------------------------

    def evict_radix(self, *, prefix_tokens: list[int] | None = None) -> ControlReceipt:
        """Drop what is unlocked in the prefix tree: all, or the subtree below ``prefix_tokens``."""
        self.require(Capability.PREFIX_CACHE, "evict_radix()")
        tokens = None if prefix_tokens is None else tuple(prefix_tokens)
        return self.acting_hook.post(Evict(prefix_tokens=tokens))

    def exhaust_kv(
        self,
        *,
        leave_pages: int,
        pool: str = "full",
        evictable: Literal["count", "evict"] = "count",
    ) -> None:
        """Hold KV pages until a request can get only ``leave_pages`` more of ``pool``."""
        memory.exhaust_kv(self, leave_pages=leave_pages, pool=pool, evictable=evictable)

    def exhaust_lock_refs(self, *, leave_refs: int) -> None:
        """Lock prefix-tree nodes until no more than ``leave_refs`` can be evicted."""
        memory.exhaust_lock_refs(self, leave_refs=leave_refs)

    def exhaust(self, name: str, **params: Any) -> None:
        """Run any registered exhauster by name with its own parameters."""
        memory.exhaust(self, name, params)

    def release_exhausted(self) -> None:
        """Give back everything that exhausters hold."""
        memory.release_held(self)

    def get_all_node_hit_counts(self) -> dict[Any, int]:
        """Hit count of every prefix-tree node but the root, by the engine's own node."""
        return memory.hit_counts(self)

    def get_all_node_lock_refs(self) -> dict[Any, int]:
        """Lock ref of every prefix-tree node but the root, by the engine's own node."""
        return memory.lock_refs(self)

    def engine_stats(self) -> dict[str, int]:
        """Pool figures: ``kv_pool_free/total`` in pages, ``req_pool_free/total`` rows, ``page_size``.

        Engines with several KV pools add ``kv_pool_<name>_free`` and ``…_total`` for each.
        """
        return memory.engine_stats(self)

    @property
    def ranks(self) -> tuple[RankView, ...]:
        """Every rank of the engine with figures of its own, the one that runs the script first.

        One entry where there is one rank. Ranks that serve a request together (tensor and pipeline
        parallel ones) have to agree, and are compared after every iteration.
        """
        return tuple(self.hook.rank_views())

    # -- queries -------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """No request is waiting or running, nor on its way in."""
        return self.engine.is_idle()

    @property
    def is_fully_idle(self) -> bool:
        """Idle, with nothing in flight either."""
        return self.engine.is_fully_idle()

    @property
    def last_batch_forward_mode(self) -> ForwardMode | None:
        """Mode of the latest batch of this script; ``None`` before the first."""
        log = self.hook.batch_log
        return log[-1].mode if log else None

    @property
    def batch(self) -> ScriptedBatchRecord | None:
        """The latest batch of this script."""
        log = self.hook.batch_log
        return log[-1] if log else None

    @property
    def batch_log(self) -> tuple[ScriptedBatchRecord, ...]:
        """Every batch of this script."""
        return tuple(self.hook.batch_log)

    @property
    def queues(self) -> QueueView:
        """The rids waiting, running and mid-chunk, in the engine's order."""
        return self.engine.queues()

    @property
    def step_index(self) -> int:
        """Iterations that this script has used so far."""
        return self.hook.step_index

    def find_req_by_rid(self, rid: str) -> Any | None:
        """The engine's own object of a live request."""
        return self.engine.find_native(rid)

    def view(self, rid: str) -> RequestView | None:
        """The neutral view of a live request."""
        return self.engine.request(rid)

    def list_active_reqs(self) -> list[Any]:
        """The engine's own objects of all live requests."""
        return queries.list_active_reqs(self)

    def is_finished(self, rid: str) -> bool:
        """Whether the end of the request was reported."""
        return self.hook.ledger.finish_reason(rid) is not None

    def finish_reason(self, rid: str) -> FinishReason | None:
        """How the request ended."""
        return self.hook.ledger.finish_reason(rid)

    def output_ids(self, rid: str) -> list[int]:
        """Output tokens so far."""
        return self.hook.ledger.output_ids(rid)

    def client_of(self, rid: str) -> ClientStream:
        """The client end of a request of this script; ``ConfigError`` for any other rid."""
        return queries.client_of(self, rid)

    def is_chunking(self, rid: str) -> bool:
        """Whether the prompt is part way through a chunked prefill."""
        return rid in self.engine.queues().chunked

    def status(self, rid: str) -> RequestStatus:
        """Where the request is in its life."""
        return queries.status(self, rid)

    def remaining_prompt_tokens(self, rid: str) -> int:
        """Prompt tokens without KV yet; 0 until the scheduler has received it, and after the end."""
        return queries.remaining_prompt_tokens(self, rid)

    def chunks_done(self, rid: str) -> int:
        """Prefill batches so far, the completing one included; 0 if one batch was enough."""
        return self.hook.ledger.chunks_done(rid)

    def chunked_parks(self, rid: str) -> int:
        """Iterations in which it was the chunked request and no chunk of it was scheduled."""
        return self.hook.ledger.chunked_parks(rid)

    def batch_composition(self) -> dict[str, list[str]]:
        """The latest batch: ``prefill``, ``decode``, ``chunked``; and all that is ``running``."""
        return queries.batch_composition(self)


def _over_http(context: ScriptedContext, via: str) -> bool:
    try:
        chosen = ControlVia(via)
    except ValueError:
        raise ConfigError(
            f"unknown via={via!r}", hint=f"one of {', '.join(repr(v.value) for v in ControlVia)}"
        ) from None
    if chosen is ControlVia.HTTP:
        context.require(Capability.HTTP, "via='http'")
    return chosen is ControlVia.HTTP

"""Starting requests: arguments are checked here, posting is the engine's own way."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from scripted_core.capabilities import Capability
from scripted_core.context import checked
from scripted_core.errors import ConfigError
from scripted_core.handle import ScriptedReqHandle
from scripted_core.requests import ReqSpec, build_prompt, require_int

if TYPE_CHECKING:
    from scripted_core.context.api import ScriptedContext


MAX_INT32 = 2**31 - 1


class ScriptedContextReqStarter:
    """Posts requests for a context and names those that come without a rid."""

    def __init__(self, context: ScriptedContext) -> None:
        self._context = context
        self._count = 0

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
        """Post one request and return once it is in the engine's inbox (or was refused).

        Raises ``ConfigError`` on impossible arguments, ``CapabilityMissing`` when the engine lacks
        what they need, ``ReplyTimeout`` when the request arrives nowhere.
        """
        context = self._context
        hook = context.acting_hook
        engine = hook.engine
        checked.flag("ignore_eos", ignore_eos)
        checked.flag("return_logprob", return_logprob)
        for name, value in (
            ("priority", priority),
            ("dp_rank", dp_rank),
            ("seed", seed),
            ("logprob_start_len", logprob_start_len),
            ("top_logprobs_num", top_logprobs_num),
        ):
            checked.whole_number(name, value)
        # Engines keep and send these as machine integers; which ranks there are, they say themselves.
        checked.between("priority", priority, -MAX_INT32, MAX_INT32)
        checked.between("dp_rank", dp_rank, -MAX_INT32, MAX_INT32)
        # Outside these bounds an engine may not refuse, but end.
        checked.between("logprob_start_len", logprob_start_len, -1, MAX_INT32)
        checked.between("top_logprobs_num", top_logprobs_num, 0, engine.vocab_size)
        checked.temperature(temperature)
        checked.token_ids("input_ids", input_ids, vocab_size=engine.vocab_size)
        checked.token_ids("stop_token_ids", stop_token_ids, vocab_size=engine.vocab_size)
        if priority is not None:
            context.require(Capability.PRIORITY, "start_req(priority=…)")
        if dp_rank is not None:
            context.require(Capability.DP, "start_req(dp_rank=…)")
        if lora_path is not None:
            context.require(Capability.LORA, "start_req(lora_path=…)")
        if return_logprob or top_logprobs_num is not None or logprob_start_len is not None:
            context.require(Capability.LOGPROBS, "start_req(return_logprob=True)")
        ids = build_prompt(
            prompt_len=prompt_len,
            prompt_token=prompt_token,
            input_ids=input_ids,
            seed=seed,
            vocab_size=engine.vocab_size,
        )
        require_int("start_req", "max_new_tokens", max_new_tokens, at_least=1)
        checked.between("max_new_tokens", max_new_tokens, 1, MAX_INT32)
        spec = ReqSpec(
            rid=self._checked_rid(rid),
            input_ids=ids,
            max_new_tokens=max_new_tokens,
            ignore_eos=ignore_eos,
            priority=priority,
            dp_rank=dp_rank,
            return_logprob=return_logprob,
            logprob_start_len=logprob_start_len,
            top_logprobs_num=top_logprobs_num,
            stop_token_ids=None if stop_token_ids is None else tuple(stop_token_ids),
            temperature=temperature,
            lora_path=lora_path,
        )
        hook.submit(spec)
        return ScriptedReqHandle(rid=spec.rid, context=context)

    def _automatic_rid(self) -> str:
        hook = self._context.hook
        source = f"{hook.seed}:{self._count}"
        if Capability.HTTP in self._context.capabilities:
            # A front remembers a rid for seconds after its end, so no two scripts share one.
            source += f":{hook.run_index}"
        digest = hashlib.blake2b(source.encode(), digest_size=4).hexdigest()
        return f"scripted-{self._count}-{digest}"

    def _checked_rid(self, rid: str | None) -> str:
        ledger = self._context.hook.ledger
        if rid is None:
            self._count += 1
            rid = self._automatic_rid()
        checked.rid(rid)
        if ledger.is_submitted(rid) or ledger.finish_reason(rid) is not None:
            raise ConfigError(
                f"start_req: rid {rid!r} was already used in this script",
                hint="rids are unique within a script; leave rid out for an automatic one",
            )
        for live in ledger.live_rids():
            if live.startswith(rid) or rid.startswith(live):
                raise ConfigError(
                    f"start_req: rid {rid!r} and the live rid {live!r} are prefixes of each other",
                    hint="engines match the rid of an abort by prefix: choose distinct beginnings",
                )
        return rid

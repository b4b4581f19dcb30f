"""From messages of the front to messages of the engine, and the replies to those that ask."""

from __future__ import annotations

import time
from collections.abc import Callable

from scripted_core.kv_report import KvUntil

from scripted_reference import messages
from scripted_reference.engine import Engine
from scripted_reference.request import SamplingParams
from scripted_reference.server import wire

FLUSH_REFUSED = "Flush cache failed: the engine is not idle.\n"


class Dispatcher:
    """Posts to the engine; `on_flush` is told whether a flush of the front's was done.

    A pause or a continue takes effect in the iteration that receives it, so its reply is sent when
    that is over.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        send: Callable[[wire.Reply], None],
        state: Callable[[], wire.EngineState],
    ) -> None:
        self._engine = engine
        self._send = send
        self._state = state
        self._replies: list[wire.Reply] = []
        self._waiting: list[tuple[wire.GetState, float]] = []
        self.on_flush: Callable[[bool], None] = lambda _: None

    def deliver(self, message: wire.ToScheduler | messages.Message) -> None:
        """Post one message, in its order, to be received in the coming iteration."""
        match message:
            case wire.Generate():
                self._engine.post(generate_req(message))
            case wire.Abort(rid=rid, message=text):
                self._engine.post(messages.AbortReq(rid, text))
            case wire.Pause(call_id=call_id, mode=mode):
                self._engine.post(messages.PauseReq(messages.PauseMode(mode)))
                self._replies.append(wire.Reply(call_id=call_id, ok=True))
            case wire.Continue(call_id=call_id):
                self._engine.post(messages.ContinueReq())
                self._replies.append(wire.Reply(call_id=call_id, ok=True))
            case wire.Flush(call_id=call_id):
                self._engine.post(messages.FlushCacheReq(self._flushed(call_id)))
            case wire.GetState(call_id=call_id, until=KvUntil.NOW):
                self._send(wire.Reply(call_id=call_id, ok=True, state=self._state()))
            case wire.GetState():
                self._waiting.append((message, time.monotonic() + message.within_s))
            case _:
                self._engine.post(message)

    def _flushed(self, call_id: int) -> Callable[[bool], None]:
        def reply(ok: bool) -> None:
            self.on_flush(ok)
            self._replies.append(
                wire.Reply(call_id=call_id, ok=ok, message="" if ok else FLUSH_REFUSED)
            )

        return reply

    def flush_replies(self) -> None:
        """The iteration is over: send what it answers."""
        for reply in self._replies:
            self._send(reply)
        self._replies.clear()
        if self._waiting:
            self._answer_those_who_wait()

    def _answer_those_who_wait(self) -> None:
        state, now = self._state(), time.monotonic()
        still = []
        for asked, deadline in self._waiting:
            found = 0 if state.kv is None else state.kv.violations_total
            has_come = state.is_idle if asked.until is KvUntil.IDLE else found > asked.after
            if has_come:
                self._send(wire.Reply(call_id=asked.call_id, ok=True, state=state))
            elif now < deadline:
                still.append((asked, deadline))
        self._waiting = still


def generate_req(message: wire.Generate) -> messages.GenerateReq:
    """The engine's own form of a request."""
    return messages.GenerateReq(
        rid=message.rid,
        input_ids=message.input_ids,
        sampling_params=SamplingParams(
            max_new_tokens=message.max_new_tokens,
            ignore_eos=message.ignore_eos,
            stop_token_ids=message.stop_token_ids,
            temperature=message.temperature,
            seed=message.seed,
        ),
        priority=message.priority,
        return_logprob=message.return_logprob,
        logprob_start_len=message.logprob_start_len,
        top_logprobs_num=message.top_logprobs_num,
        lora_path=message.lora_path,
        dp_rank=message.dp_rank,
        bootstrap=message.bootstrap,
    )

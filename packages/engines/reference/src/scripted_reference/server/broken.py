"""A server that is wrong on purpose: the parts that `inject_fault` puts in the place of sound ones.

Imported only when a fault of servers is asked for.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from scripted_registry.errors import ConfigError

from scripted_reference.engine import Engine
from scripted_reference.faults.of_servers import ServerFault
from scripted_reference.memory import IntArray
from scripted_reference.schedule_batch import ScheduleBatch
from scripted_reference.scheduler import Scheduler
from scripted_reference.server.bodies import GenerateBody
from scripted_reference.server.event_loop import EventLoop
from scripted_reference.server.generation import Generation
from scripted_reference.server.openai_bodies import CompletionsBody
from scripted_reference.server.routes_generate import GenerateRoutes
from scripted_reference.server.routes_openai import OpenAiRoutes

STALL_S: Final = 0.001
_LOST_EVENT: Final = 2
_CORRUPTED_POSITION: Final = 2


def event_loop_class(fault: str) -> type[EventLoop]:
    """The event loop of a scheduler process with this fault."""
    match fault:
        case ServerFault.STALL:
            return _StallingLoop
        case ServerFault.KV_SLOT:
            return _CorruptingLoop
        case ServerFault.DRAFT:
            return _UselessDraftLoop
        case _:
            return EventLoop


def generate_routes_class(fault: str) -> type[GenerateRoutes]:
    """The routes of SGLang's API of a front with this fault."""
    match fault:
        case ServerFault.BATCH_REPLIES:
            return _ShufflingRoutes
        case ServerFault.STREAM_CHUNK:
            return _LossyRoutes
        case _:
            return GenerateRoutes


def openai_routes_class(fault: str) -> type[OpenAiRoutes]:
    """The routes of OpenAI's API of a front with this fault."""
    match fault:
        case ServerFault.BATCH_REPLIES:
            return _ShufflingOpenAiRoutes
        case ServerFault.STREAM_CHUNK:
            return _LossyOpenAiRoutes
        case _:
            return OpenAiRoutes


class _StallingLoop(EventLoop):
    def before_receive(self) -> None:
        super().before_receive()
        time.sleep(STALL_S)


class _CorruptingLoop(EventLoop):
    """Overwrites a slot, once for each request."""

    def __init__(self, engine: Engine, **parts: Any) -> None:
        self._schedulers = engine.schedulers
        self._storage = [_kv_of(scheduler) for scheduler in engine.schedulers]
        self._done: set[str] = set()
        super().__init__(engine, **parts)

    def on_run_batch(self, batch: ScheduleBatch) -> None:
        super().on_run_batch(batch)
        if not batch.forward_mode.is_decode():
            return
        for req, row in zip(batch.reqs, batch.rows.tolist(), strict=True):
            if req.rid not in self._done and len(req.origin_input_ids) > _CORRUPTED_POSITION:
                self._done.add(req.rid)
                self._corrupt(req.rid, row)

    def _corrupt(self, rid: str, row: int) -> None:
        for scheduler, kv in zip(self._schedulers, self._storage, strict=True):
            if rid in scheduler.requests:
                slots = scheduler.req_to_token_pool.req_to_token[row]
                kv.write(int(slots[_CORRUPTED_POSITION]), kv.read(int(slots[0])))


class _UselessDraftLoop(EventLoop):
    def __init__(self, engine: Engine, **parts: Any) -> None:
        from scripted_reference.speculation.model import SpeculativeModel, VerifyBatch

        class WrongGuesses(SpeculativeModel):
            def guess(self, batch: VerifyBatch) -> list[IntArray]:
                fed = super().guess(batch)
                for tokens in fed:
                    tokens[1:] = (tokens[1:] + 1) % self.vocab_size
                return fed

        for scheduler in engine.schedulers:
            model = scheduler.model
            if not isinstance(model, SpeculativeModel):
                raise ConfigError(
                    f"engine argument inject_fault={ServerFault.DRAFT.value!r} needs a draft model",
                    hint="add speculative_algorithm and speculative_draft_model_path",
                )
            scheduler.model = WrongGuesses(target=model.target, draft=model.draft)
        super().__init__(engine, **parts)


def _kv_of(scheduler: Scheduler) -> Any:
    from scripted_reference.models.transformer_model import TransformerModel

    model = scheduler.model
    if not isinstance(model, TransformerModel):
        raise ConfigError(
            f"engine argument inject_fault={ServerFault.KV_SLOT.value!r} needs a transformer",
            hint="use model_path='tiny'",
        )
    return model.kv


def _rotated(replies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*replies[1:], *replies[:1]]


class _ShufflingRoutes(GenerateRoutes):
    def replies(self, planned: Sequence[Generation], body: GenerateBody) -> list[dict[str, Any]]:
        return _rotated(super().replies(planned, body))


class _ShufflingOpenAiRoutes(OpenAiRoutes):
    def choices(self, planned: Sequence[Generation], body: CompletionsBody) -> list[dict[str, Any]]:
        found = _rotated(super().choices(planned, body))
        return [{**choice, "index": i} for i, choice in enumerate(found)]


async def _without_one(
    events: AsyncGenerator[dict[str, Any]],
) -> AsyncGenerator[dict[str, Any]]:
    i = 0
    async for event in events:
        if i != _LOST_EVENT:
            yield event
        i += 1


class _LossyRoutes(GenerateRoutes):
    def events(
        self, planned: Sequence[Generation], body: GenerateBody, *, is_batch: bool
    ) -> AsyncGenerator[dict[str, Any]]:
        return _without_one(super().events(planned, body, is_batch=is_batch))


class _LossyOpenAiRoutes(OpenAiRoutes):
    def events(
        self, planned: Sequence[Generation], body: CompletionsBody, head: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any]]:
        return _without_one(super().events(planned, body, head))

"""What the processes of a pipeline tell each other: MessagePack over ZMQ sockets."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from scripted_core.ops import Evict, Exhaust, ReleaseHeld
from scripted_hook.ranks import RankNotice, ScriptBegins, ScriptEnds

from scripted_reference import messages
from scripted_reference.memory import IntArray
from scripted_reference.models.base import BatchResult, ReqLogprobs
from scripted_reference.server import wire


class PauseStage(msgspec.Struct, frozen=True, tag=True):
    """A pause."""

    mode: str


class ContinueStage(msgspec.Struct, frozen=True, tag=True):
    """Its end."""


class FlushStage(msgspec.Struct, frozen=True, tag=True):
    """A flush of the prefix tree."""


class BeginsScript(msgspec.Struct, frozen=True, tag=True):
    """A `ScriptBegins` of the hook."""

    run: int
    check_invariants: bool


class EndsScript(msgspec.Struct, frozen=True, tag=True):
    """A `ScriptEnds` of the hook."""

    run: int


StageMessage = (
    wire.Generate
    | wire.Abort
    | PauseStage
    | ContinueStage
    | FlushStage
    | Evict
    | Exhaust
    | ReleaseHeld
    | BeginsScript
    | EndsScript
)


class Hello(msgspec.Struct, frozen=True, tag=True):
    """From the stage before, at the start: this way is open."""


class Turn(msgspec.Struct, frozen=True, tag=True):
    """One iteration begins: what the driver has received in it, in order."""

    messages: list[StageMessage]


class HiddenState(msgspec.Struct, frozen=True, tag=True):
    """A batch of the stage before: an array's type, shape and bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


class Up(msgspec.Struct, frozen=True, tag=True):
    """From the last stage, at the start: it can be heard."""


class Met(msgspec.Struct, frozen=True, tag=True):
    """To the driver, at the start: this stage hears those before it and the last one."""

    stage: int


class StageResult(msgspec.Struct, frozen=True, tag=True):
    """What came out of a batch: the next tokens as `int64`, and log probabilities if anybody asked."""

    tokens: bytes
    logprobs: tuple[ReqLogprobs | None, ...] | None = None


Downstream = Hello | Turn | HiddenState
FromLast = Up | Met | StageResult

_encoder = msgspec.msgpack.Encoder()
_downstream: msgspec.msgpack.Decoder[Downstream] = msgspec.msgpack.Decoder(Downstream)
_from_last: msgspec.msgpack.Decoder[FromLast] = msgspec.msgpack.Decoder(FromLast)


def encode(message: Downstream | FromLast) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def decode_downstream(frame: bytes) -> Downstream:
    """The message in a frame from the stage before."""
    return _downstream.decode(frame)


def decode_from_last(frame: bytes) -> FromLast:
    """The message in a frame from the last stage, or on the driver from any."""
    return _from_last.decode(frame)


def hidden_state(hidden: Any) -> HiddenState:
    """An array of NumPy, or a tensor on whatever device, on its way."""
    array = hidden if isinstance(hidden, np.ndarray) else hidden.cpu().numpy()
    return HiddenState(array.dtype.str, array.shape, array.tobytes())


def hidden_array(message: HiddenState) -> Any:
    """The array again, to be written to."""
    return np.frombuffer(bytearray(message.data), dtype=message.dtype).reshape(message.shape)


def stage_result(result: BatchResult) -> StageResult:
    """A result on its way."""
    return StageResult(result.next_token_ids.astype(np.int64).tobytes(), result.logprobs)


def batch_result(message: StageResult) -> BatchResult:
    """The result again."""
    tokens: IntArray = np.frombuffer(bytearray(message.tokens), dtype=np.int64)
    return BatchResult(tokens, message.logprobs)


def relayed(
    message: messages.Message | messages.EngineReq,
) -> StageMessage | None:
    """What the other stages have to be told of a message; `None` if it is the driver's own affair."""
    match message:
        case messages.GenerateReq():
            return _generate(message)
        case messages.AbortReq():
            return wire.Abort(message.rid, message.message)
        case messages.PauseReq(mode):
            return PauseStage(mode.value)
        case messages.ContinueReq():
            return ContinueStage()
        case messages.FlushCacheReq():
            return FlushStage()
        case messages.RelayedReq(relay=ScriptBegins(run, check_invariants)):
            return BeginsScript(run, check_invariants)
        case messages.RelayedReq(relay=ScriptEnds(run)):
            return EndsScript(run)
        case messages.RelayedReq(relay=(Evict() | Exhaust() | ReleaseHeld()) as op):
            return op
        case _:
            return None


def rank_notice(message: BeginsScript | EndsScript) -> RankNotice:
    """The hook's own form of a notice."""
    if isinstance(message, BeginsScript):
        return ScriptBegins(message.run, message.check_invariants)
    return ScriptEnds(message.run)


def _generate(message: messages.GenerateReq) -> wire.Generate:
    params = message.sampling_params
    return wire.Generate(
        rid=message.rid,
        input_ids=list(message.input_ids),
        max_new_tokens=params.max_new_tokens,
        ignore_eos=params.ignore_eos,
        stop_token_ids=tuple(params.stop_token_ids),
        temperature=params.temperature,
        seed=params.seed,
        priority=message.priority,
        return_logprob=message.return_logprob,
        logprob_start_len=message.logprob_start_len,
        top_logprobs_num=message.top_logprobs_num,
        lora_path=message.lora_path,
    )

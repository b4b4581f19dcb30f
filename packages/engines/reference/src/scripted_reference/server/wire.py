"""What front and scheduler tell each other: msgspec structs as MessagePack, over two ZMQ sockets.

The front binds both in a folder that only this user can enter, and the scheduler connects. Order is
kept in each direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import zmq
from scripted_core.kv_report import KvReport, KvUntil

from scripted_reference.bootstrap import Bootstrap
from scripted_reference.limits import RequestLimits
from scripted_reference.models.base import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The addresses of the two sockets in a private folder."""

    folder: Path

    @property
    def requests(self) -> str:
        """From the front to the scheduler."""
        return f"ipc://{self.folder}/requests"

    @property
    def outputs(self) -> str:
        """From the scheduler to the front."""
        return f"ipc://{self.folder}/outputs"


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A request; the fields are those of `messages.GenerateReq` and `request.SamplingParams`."""

    rid: str
    input_ids: list[int]
    max_new_tokens: int
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    seed: int | None = None
    priority: int | None = None
    return_logprob: bool = False
    logprob_start_len: int = -1
    top_logprobs_num: int = 0
    lora_path: str | None = None
    dp_rank: int | None = None
    bootstrap: Bootstrap | None = None


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End this request, or with `rid=None` all that arrived before."""

    rid: str | None
    message: str = "aborted"


class Pause(msgspec.Struct, frozen=True, tag=True):
    """Pause; answered by a `Reply` once it is in force."""

    call_id: int
    mode: str


class Continue(msgspec.Struct, frozen=True, tag=True):
    """Undo a pause; answered by a `Reply`."""

    call_id: int


class Flush(msgspec.Struct, frozen=True, tag=True):
    """Empty the prefix tree if the engine is idle; the `Reply` says whether it was."""

    call_id: int


class GetState(msgspec.Struct, frozen=True, tag=True):
    """Ask for an `EngineState`; never parked, since it changes nothing.

    It is answered at once, or as soon as what `until` says has come: the engine is idle, or the watcher
    of its KV has found more violations than `after`. Who has not got an answer `within_s` seconds does
    not wait for it any more.
    """

    call_id: int
    until: KvUntil = KvUntil.NOW
    after: int = 0
    within_s: float = 0.0


Call = Pause | Continue | Flush | GetState
ToScheduler = Generate | Abort | Pause | Continue | Flush | GetState


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The engine is built and takes requests; what the front has to know of it."""

    pid: int
    limits: RequestLimits
    num_replicas: int
    eos_token_id: int


class Finish(msgspec.Struct, frozen=True):
    """How a request ended: `kind` is stop, length or abort."""

    kind: str
    message: str | None = None
    matched_token: int | None = None


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of one request: tokens since the last output, and the end when it came.

    `output_logprobs` has an entry for each new token of a request that asked, and `input_logprobs`
    those of prompt positions that were not told of before.
    """

    rid: str
    token_ids: list[int]
    output_logprobs: list[TokenLogprobs] = []
    input_logprobs: list[TokenLogprobs] = []
    cached_tokens: int = 0
    spec_verify_ct: int = 0
    finish: Finish | None = None


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """Everything that is new after one iteration."""

    items: list[Output]


class ReplicaState(msgspec.Struct, frozen=True, kw_only=True):
    """One data-parallel replica now; the totals count from the start.

    `gen_throughput` is in tokens per second and `fwd_occupancy` in percent of time, both over the
    latest closed window of forwards; the latter is NaN while nothing runs, and without a device timer.
    `avg_spec_accept_length` is the mean of all verifications, `None` where nothing speculates.
    """

    num_running: int
    num_waiting: int
    chunked_rid: str | None
    tokens_total: int
    tokens_free: int
    tokens_evictable: int
    forwards_total: int
    prompt_tokens_total: int
    cached_tokens_total: int
    generated_tokens_total: int
    retractions_total: int
    gen_throughput: float
    fwd_occupancy: float
    avg_spec_accept_length: float | None = None


class EngineState(msgspec.Struct, frozen=True, kw_only=True):
    """All replicas, and how the engine is paused (`None`: it is not).

    `kv` is what the watcher of the KV says; `None` where there is none.
    """

    paused: str | None
    replicas: tuple[ReplicaState, ...]
    is_idle: bool
    kv: KvReport | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The answer to a call."""

    call_id: int
    ok: bool
    message: str = ""
    state: EngineState | None = None


ToFront = Ready | Outputs | Reply

_encoder = msgspec.msgpack.Encoder()
_scheduler_decoder: msgspec.msgpack.Decoder[ToScheduler] = msgspec.msgpack.Decoder(ToScheduler)
_front_decoder: msgspec.msgpack.Decoder[ToFront] = msgspec.msgpack.Decoder(ToFront)


def encode(message: ToScheduler | ToFront) -> bytes:
    """One frame."""
    return _encoder.encode(message)


def decode_for_scheduler(frame: bytes) -> ToScheduler:
    """The message in a frame from the front."""
    return _scheduler_decoder.decode(frame)


def decode_for_front(frame: bytes) -> ToFront:
    """The message in a frame from the scheduler."""
    return _front_decoder.decode(frame)


def unlimited(socket: Any) -> None:
    """Never drop or hold up a message, and do not wait for a peer that has ended."""
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 10)

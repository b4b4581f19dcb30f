"""What a script asks an engine for: request specifications and client streams."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_core.views import FinishReason

MAX_PROMPT_TOKENS = 2**24
"""Longest prompt that is built: beyond every context there is, and 128 MiB as a tuple."""


class ReqSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One generate request, validated; ``input_ids`` is the whole prompt in token ids."""

    rid: str
    input_ids: tuple[int, ...]
    max_new_tokens: int = 8
    ignore_eos: bool = False
    priority: int | None = None
    dp_rank: int | None = None
    return_logprob: bool = False
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    stop_token_ids: tuple[int, ...] | None = None
    temperature: float | None = None
    lora_path: str | None = None


class ClientStream:
    """What the client of a request has received so far; written by one thread, read by any.

    ``token_ids`` in order of arrival, ``chunks`` the number of tokens that each arrived with,
    ``finish_reason`` once the end was received, ``error`` in its place when the stream broke or the
    engine refused, ``http_status`` (``None`` without HTTP), ``meta_info`` what the front said beside
    the latest tokens, logprobs above all (empty without HTTP).
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.chunks: list[int] = []
        self.finish_reason: FinishReason | None = None
        self.http_status: int | None = None
        self.meta_info: Mapping[str, Any] = {}
        self.error: str | None = None
        self.hung_up = False
        self._ended = threading.Event()
        self._close: Callable[[], object] | None = None

    def closes_by(self, close: Callable[[], object]) -> None:
        """How the connection is closed from this end; said by whoever opens it."""
        self._close = close

    def hang_up(self) -> None:
        """Go away without reading on, as a client does that is closed; more than once changes nothing.

        The engine notices in its own time, and ends the request as an abort. Raises
        ``CapabilityMissing`` where there is no connection.
        """
        if self._close is None:
            raise CapabilityMissing("hang_up() needs the capability 'http': there is no connection")
        self.hung_up = True
        self._close()

    def receive(self, token_ids: Sequence[int]) -> None:
        """Append newly arrived tokens as one chunk."""
        if token_ids:
            self.token_ids.extend(token_ids)
            self.chunks.append(len(token_ids))

    def receive_all(self, output_ids: Sequence[int]) -> None:
        """Take in a message that repeats all output so far; an earlier part that changed shows.

        What was received before is kept as it was, so that a splice makes the stream differ from
        the engine's output.
        """
        known = len(self.token_ids)
        if list(output_ids[:known]) != self.token_ids:
            self.token_ids = self.token_ids + list(output_ids)
            self.chunks.append(len(output_ids))
            return
        self.receive(output_ids[known:])

    def end(self, reason: FinishReason) -> None:
        """The end was received; only the first counts."""
        if self.finish_reason is None:
            self.finish_reason = reason
        self._ended.set()

    def fail(self, error: str) -> None:
        """The stream broke, or the engine refused the request."""
        if self.error is None:
            self.error = error
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether the end of the stream, or an error in its place, has been received."""
        return self._ended.is_set()

    def wait_ended(self, timeout_s: float) -> bool:
        """Wait for the end; False when the time is up first."""
        return self._ended.wait(timeout_s)

    def __repr__(self) -> str:
        return (
            f"ClientStream(token_ids={self.token_ids!r}, finish_reason={self.finish_reason!r}, "
            f"http_status={self.http_status!r}, error={self.error!r})"
        )


def build_prompt(
    *,
    prompt_len: int | None,
    prompt_token: int,
    input_ids: list[int] | tuple[int, ...] | None,
    seed: int | None,
    vocab_size: int,
) -> tuple[int, ...]:
    """The prompt's token ids: given ids, ``seed``'s random ids, or ``prompt_len`` × ``prompt_token``.

    ``input_ids`` have been checked one by one before. Raises :class:`ConfigError` on an empty,
    negative or contradictory description.
    """
    if input_ids is not None:
        if prompt_len is not None and prompt_len != len(input_ids):
            raise ConfigError(
                f"start_req: prompt_len={prompt_len} and {len(input_ids)} input_ids disagree",
                hint="give input_ids alone",
            )
        ids = tuple(input_ids)
    else:
        if prompt_len is None:
            raise ConfigError(
                "start_req: neither prompt_len nor input_ids was given",
                hint="start_req(prompt_len=64) or start_req(input_ids=[…])",
            )
        require_int("start_req", "prompt_len", prompt_len, at_least=1)
        if prompt_len > MAX_PROMPT_TOKENS:
            raise ConfigError(
                f"start_req: prompt_len={prompt_len} is above {MAX_PROMPT_TOKENS}",
                hint="to see a prompt refused, one token more than the context is enough",
            )
        require_int("start_req", "prompt_token", prompt_token, at_least=0)
        if prompt_token >= vocab_size:
            raise ConfigError(
                f"start_req: token id {prompt_token} is outside the vocabulary of {vocab_size}",
                hint=f"token ids are 0 … {vocab_size - 1}",
            )
        if seed is None:
            ids = (prompt_token,) * prompt_len
        else:
            rng = random.Random(seed)
            ids = tuple(rng.randrange(1, vocab_size) for _ in range(prompt_len))
    if not ids:
        raise ConfigError("start_req: the prompt is empty", hint="give at least one token")
    return ids


def require_int(call: str, name: str, value: object, *, at_least: int) -> int:
    """``value`` as an ``int`` that is at least ``at_least``, or a :class:`ConfigError` naming it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ConfigError(
            f"{call}: {name}={value!r} is not an integer of at least {at_least}",
            hint=f"give {name} as a whole number ≥ {at_least}",
        )
    return value

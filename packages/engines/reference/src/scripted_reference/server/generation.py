"""One live request in the front: what has come back of it so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from scripted_reference.models.base import TokenLogprobs
from scripted_reference.models.tokenizer import Tokenizer
from scripted_reference.server.detokenizer import IncrementalText
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.wire import Finish, Generate, Output


class Generation:
    """Collects the outputs of a request; `advance` waits for more.

    Attributes:
        spec: what was asked.
        output_ids: the tokens so far, all of them.
        output_logprobs: one entry for each token, when asked for.
        input_logprobs: one entry for each prompt position that was asked for.
        cached_tokens: prompt tokens that did not have to be computed.
        spec_verify_ct: verifications of guesses for it.
        finish: how it ended, or `None`.
        stop_string: the stop string that ended it, or `None`.
        begun_s, first_token_s, ended_s: times of `time.monotonic`, the latter `None` until then.
    """

    def __init__(
        self,
        spec: Generate,
        *,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        keep_stop: bool = False,
    ) -> None:
        self.spec = spec
        self.output_ids: list[int] = []
        self.output_logprobs: list[TokenLogprobs] = []
        self.input_logprobs: list[TokenLogprobs] = []
        self.cached_tokens = 0
        self.spec_verify_ct = 0
        self.finish: Finish | None = None
        self.stop_string: str | None = None
        self.begun_s = time.monotonic()
        self.first_token_s: float | None = None
        self.ended_s: float | None = None
        self._decoded = IncrementalText(tokenizer)
        self._num_decoded = 0
        self._text_before_stop: str | None = None
        self._stop = tuple(stop)
        self._keep_stop = keep_stop
        self._arrived: asyncio.Queue[Output | RequestError] = asyncio.Queue()

    @property
    def rid(self) -> str:
        """Its id."""
        return self.spec.rid

    @property
    def text(self) -> str:
        """What the tokens read as; without the stop string that ended the request, unless it is kept."""
        if self._text_before_stop is not None:
            return self._text_before_stop
        if self._num_decoded < len(self.output_ids):
            self._decode_to(len(self.output_ids))
        return self._decoded.text

    def receive(self, output: Output | RequestError) -> None:
        """The scheduler has sent something, or nothing will come any more."""
        self._arrived.put_nowait(output)

    async def advance(self) -> None:
        """Wait until there is something new, and take in all that has come.

        Raises `RequestError` when the scheduler process has ended.
        """
        self._take(await self._arrived.get())
        while not self._arrived.empty() and self.finish is None:
            self._take(self._arrived.get_nowait())

    async def complete(self) -> None:
        """Wait for the end."""
        while self.finish is None:
            await self.advance()

    def _take(self, output: Output | RequestError) -> None:
        if isinstance(output, RequestError):
            raise output
        if output.token_ids and self.first_token_s is None:
            self.first_token_s = time.monotonic()
        self.output_ids += output.token_ids
        self.output_logprobs += output.output_logprobs
        self.input_logprobs += output.input_logprobs
        self.cached_tokens = output.cached_tokens
        self.spec_verify_ct = output.spec_verify_ct
        self.finish = output.finish
        if self._stop:
            self._look_for_stop()
        if self.finish is not None:
            self.ended_s = time.monotonic()

    def _decode_to(self, length: int) -> None:
        self._decoded.feed(self.output_ids[self._num_decoded : length])
        self._num_decoded = length

    def _look_for_stop(self) -> None:
        """End at the first token that completes a stop string; the scheduler has not seen it."""
        for length in range(self._num_decoded + 1, len(self.output_ids) + 1):
            # What was settled before has been searched: a match has to end behind it.
            searched = self._decoded.settled_characters
            self._decode_to(length)
            text = self._decoded.text
            found = [
                (end - len(stop), stop)
                for end in range(searched + 1, len(text) + 1)
                if text.endswith(self._stop, 0, end)
                for stop in self._stop
                if text.endswith(stop, 0, end)
            ]
            if found:
                at, self.stop_string = min(found)
                self._text_before_stop = text if self._keep_stop else text[:at]
                del self.output_ids[length:], self.output_logprobs[length:]
                self.finish = Finish("stop")
                return

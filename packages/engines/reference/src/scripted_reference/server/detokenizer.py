"""Text of a growing list of tokens, decoded a window at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from scripted_reference.models.tokenizer import Tokenizer

INCOMPLETE: Final = "\ufffd"
"""What the end of a text reads as while the rest of a character is still to come."""

_CONTEXT_TOKENS: Final = 8
_MOST_PENDING_TOKENS: Final = 32
_LONGEST_CHARACTER_TOKENS: Final = 4


class IncrementalText:
    """The text of all tokens fed so far; each token costs as much as a few, however many came before.

    As in the detokenizers of SGLang and vLLM, new tokens are decoded behind some that are known
    (the context), since how a token reads may depend on the one before it: the text that comes on top
    of the context's is theirs. Text that ends in half a character waits for the rest of it; all
    other text is settled, and does not change any more.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._settled = ""
        self._tail = ""  # what the pending tokens read as for now
        self._context: list[int] = []
        self._context_text = ""
        self._pending: list[int] = []

    @property
    def text(self) -> str:
        """All of it."""
        return self._settled + self._tail

    @property
    def settled_characters(self) -> int:
        """Length of the text that stays as it is."""
        return len(self._settled)

    def feed(self, ids: Sequence[int]) -> None:
        """Take in further tokens."""
        self._pending += ids
        window = self._context + self._pending
        whole = self._tokenizer.decode(window)
        self._tail = whole[len(self._context_text) :]
        is_long = len(self._pending) > _MOST_PENDING_TOKENS
        if not self._tail:
            if is_long:
                self._pending.clear()  # special tokens: they neither read as anything nor matter
        elif not self._tail.endswith(INCOMPLETE):
            self._settle(window, whole)
        elif is_long:
            self._settle_start(window, whole)

    def _settle(self, window: list[int], whole: str) -> None:
        """`whole`, the text of `window`, ends with a whole character."""
        self._settled += whole[len(self._context_text) :]
        context, text = window, whole
        for size in range(_CONTEXT_TOKENS, len(window)):
            shorter = window[-size:]
            shorter_text = self._tokenizer.decode(shorter)
            if shorter_text and whole.endswith(shorter_text):  # it begins with a whole character
                context, text = shorter, shorter_text
                break
        self._context, self._context_text = context, text
        self._pending, self._tail = [], ""

    def _settle_start(self, window: list[int], whole: str) -> None:
        """Settle what comes before the last character: bytes that are no text can go on for long.

        Between two characters the text of a part and that of the rest make up the text of all, and
        inside one they do not, once all tokens that it can have are there.
        """
        last = len(window) - _LONGEST_CHARACTER_TOKENS
        for split in range(last, last - _LONGEST_CHARACTER_TOKENS, -1):
            start = self._tokenizer.decode(window[:split])
            if start + self._tokenizer.decode(window[split:]) == whole:
                rest = window[split:]
                self._settle(window[:split], start)
                self._pending, self._tail = rest, whole[len(start) :]
                return

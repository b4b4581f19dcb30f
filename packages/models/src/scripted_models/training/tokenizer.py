"""The tokenizer: one token for each word of the generated text, bytes for everything else.

It is a Unigram model with byte fallback, as in SentencePiece and in Llama, whose pieces are chosen
by hand: every known word with its space, and single characters for other text. Any text survives
encoding and decoding.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from scripted_models.training.text import all_words

SPECIAL_TOKENS: Final = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(len(SPECIAL_TOKENS))
BYTES: Final = 256
_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
# A known word always beats the same word spelled out.
_WORD_SCORE: Final = -1.0
_CHARACTER_SCORE: Final = -10.0
_BYTE_SCORE: Final = -20.0


def vocabulary() -> list[tuple[str, float]]:
    """Return the pieces in the order of their ids, each with its log-probability."""
    characters = string.ascii_letters + string.digits + string.punctuation
    return [
        *((token, 0.0) for token in SPECIAL_TOKENS),
        *((f"<0x{byte:02X}>", _BYTE_SCORE) for byte in range(BYTES)),
        (_SPACE, _CHARACTER_SCORE),
        *((character, _CHARACTER_SCORE) for character in characters),
        *((_SPACE + word, _WORD_SCORE) for word in all_words()),
    ]


def build_tokenizer() -> Tokenizer:
    """Return the tokenizer. It adds no token of its own to what it encodes."""
    tokenizer = Tokenizer(models.Unigram(vocabulary(), unk_id=UNK_ID, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    )
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of the checkpoint in `folder`."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def tokenizer_config(*, context_length: int) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json`; `context_length` is in tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        "pad_token": SPECIAL_TOKENS[PAD_ID],
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "unk_token": SPECIAL_TOKENS[UNK_ID],
    }

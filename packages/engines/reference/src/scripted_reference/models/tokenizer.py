"""From text to token ids and back, for servers. A model's own tokenizer, or bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Protocol

from scripted_registry.errors import ConfigError

from scripted_reference.args import HASH_MODEL
from scripted_reference.models.folder import model_folder

if TYPE_CHECKING:
    from pathlib import Path

    from scripted_reference.args import ServerArgs

TOKENIZER_FILE: Final = "tokenizer.json"

_FIRST_BYTE_ID: Final = 3
_BYTES: Final = 256


class Tokenizer(Protocol):
    """What a server needs."""

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens are left out."""


class ByteTokenizer:
    """A stand-in where there is no vocabulary: the byte `b` of UTF-8 is the token `b + 3`.

    It encodes any text, and decodes what it encoded. A model that never learned it outputs other ids,
    too: they read `<id>`, and bytes that are no UTF-8 read as the replacement character.
    """

    def encode(self, text: str) -> list[int]:
        """Return one token id for each byte."""
        return [byte + _FIRST_BYTE_ID for byte in text.encode("utf-8", errors="surrogatepass")]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text."""
        parts: list[str] = []
        for is_text, run in groupby(ids, key=_is_byte):
            if is_text:
                raw = bytes(token - _FIRST_BYTE_ID for token in run)
                parts.append(raw.decode("utf-8", errors="replace"))
            else:
                parts.extend(f"<{token}>" for token in run)
        return "".join(parts)


class FileTokenizer:
    """The tokenizer of a `tokenizer.json`, as the `tokenizers` library runs it."""

    def __init__(self, file: Path) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{file} needs the library tokenizers, which is not installed",
                hint="pip install 'scripted-reference[tiny]'",
            ) from error
        try:
            self._loaded: Any = Loaded.from_file(str(file))
        except Exception as error:  # the library raises nothing more specific
            raise ConfigError(
                f"{file} cannot be read as a tokenizer: {error}",
                hint="copy the file again, or remove it to use bytes as tokens",
            ) from error

    def encode(self, text: str) -> list[int]:
        """Return the token ids, with the special tokens that the tokenizer puts around a text."""
        return [int(token) for token in self._loaded.encode(text).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; special tokens are left out."""
        return str(self._loaded.decode(list(ids), skip_special_tokens=True))


def load_tokenizer(args: ServerArgs) -> Tokenizer:
    """Return the tokenizer of the engine's model; one without a `tokenizer.json` gets bytes.

    Raises `ConfigError` for a model folder that is not there and for a damaged file.
    """
    if args.model_path == HASH_MODEL:
        return ByteTokenizer()
    file = model_folder(args.model_path) / TOKENIZER_FILE
    return FileTokenizer(file) if file.is_file() else ByteTokenizer()


def _is_byte(token: int) -> bool:
    return _FIRST_BYTE_ID <= token < _FIRST_BYTE_ID + _BYTES

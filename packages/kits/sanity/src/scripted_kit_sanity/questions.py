"""Questions with known answers, and how many of the answers have to be right."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripted_core.errors import CapabilityMissing, ConfigError

TRAINED_MODEL: Final = "tiny"
_FORM: Final = '-o questions=FILE takes lines of {"prompt": "…", "answer": "…"}'
AUTO, WORLD, TINY, NONE = "auto", "world", "tiny", "none"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A prompt, and the text that has to be in what comes after it, in any case of letters."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Questions of one kind. `floor` is the share of right answers that is enough."""

    name: str
    items: tuple[Question, ...]
    floor: float
    answer_tokens: int


_CAPITALS: Final = (
    ("France", "paris"),
    ("Germany", "berlin"),
    ("Italy", "rome"),
    ("Japan", "tokyo"),
    ("Spain", "madrid"),
    ("Egypt", "cairo"),
    ("Russia", "moscow"),
    ("Australia", "canberra"),
    ("Portugal", "lisbon"),
    ("Norway", "oslo"),
)
_WORLD: Final = Questions(
    name="capitals of the world",
    items=tuple(
        Question(prompt=f"Q: What is the capital of {country}?\nA:", answer=capital)
        for country, capital in _CAPITALS
    ),
    floor=0.9,
    answer_tokens=24,
)
FACTS_FLOOR: Final = 0.95
"""The trained checkpoint knows 98.0 % of its 200 held-out facts; this is 3 points less."""
RECALL_FLOOR: Final = 0.90
"""It recalls 97.5 % of what was told 259 to 500 tokens before, and all of the first 16 items: this lets
one of 16 be wrong."""
RECALL_ITEMS: Final = 16


def known_answers(chosen: str, *, model: str) -> Questions:
    """The questions that a model is asked for short answers.

    `chosen` is `auto`, `world`, `tiny`, `none` or a JSONL file of `prompt` and `answer`. With `auto`,
    the trained checkpoint is asked what it was trained on, and every other model about the world.

    Raises `CapabilityMissing` for `none`, `ConfigError` for a file that cannot be used.
    """
    if chosen == AUTO:
        chosen = TINY if is_trained(model) else WORLD
    if chosen == NONE:
        raise CapabilityMissing("no questions were chosen (questions=none)")
    if chosen == WORLD:
        return _WORLD
    if chosen == TINY:
        items = tuple(_read(_dataset("facts")))
        return Questions(name="facts", items=items, floor=FACTS_FLOOR, answer_tokens=1)
    file = Path(chosen)
    return Questions(name=file.name, items=tuple(_read(file)), floor=0.9, answer_tokens=24)


def recall_questions(*, model: str) -> Questions:
    """Questions about what was told some hundred tokens before; for the trained checkpoint alone."""
    if not is_trained(model):
        raise CapabilityMissing(
            f"what {model!r} can recall is not known; there are questions for the model `tiny`"
        )
    items = tuple(_read(_dataset("recall")))[:RECALL_ITEMS]
    return Questions(name="recall", items=items, floor=RECALL_FLOOR, answer_tokens=1)


def is_trained(model: str) -> bool:
    """Whether a server's model is the trained checkpoint, by its name or the end of its path."""
    return model.rstrip("/").rpartition("/")[2] == TRAINED_MODEL


def _dataset(name: str) -> Path:
    try:
        from scripted_models import dataset
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the questions for the model `tiny` are not installed",
            hint="pip install 'scripted-kit-sanity[tiny]', or -o questions=none",
        ) from error
    return dataset(name)


def _read(file: Path) -> Iterable[Question]:
    found: list[Question] = []
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint=_FORM) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_question(json.loads(line.decode("utf-8-sig"))))
        except (ValueError, RecursionError) as error:
            reason = f"line {number} of {file} is no question: {error}"
            raise ConfigError(reason, hint=_FORM) from error
    if not found:
        raise ConfigError(f"{file} has no question", hint="give it at least one line")
    return found


def _question(fields: object) -> Question:
    if not isinstance(fields, dict):
        raise ValueError("it is no JSON object")
    for name in ("prompt", "answer"):
        value = fields.get(name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"its {name} is {value!r:.40}")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"its {name} has half of a character (a lone surrogate)")
    return Question(prompt=fields["prompt"], answer=fields["answer"])

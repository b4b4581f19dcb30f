"""Associative recall: who was given what, asked again much later.

A document lists pairs of a person and a thing, tells something else for a while and then asks for
things again. The pairs are drawn anew for each document, so that a model cannot know them by heart;
a tenth of all pairs never occurs in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripted_models.training.vocabulary import PEOPLE, THINGS, in_held_out_bucket

Filler = Callable[[random.Random], str]


@dataclass(frozen=True, slots=True)
class RecallItem:
    """A question: `prompt` ends with the person asked for, `answer` is that person's thing.

    `distance` counts the words from the person in the list to the person in the question.
    """

    prompt: str
    answer: str
    distance: int


def is_held_out(person: str, thing: str) -> bool:
    """Return whether `person` with `thing` is kept out of training."""
    return in_held_out_bucket("recall", person, thing)


def write_recall(
    rng: random.Random, *, pairs: int, questions: int, filler_words: int, filler: Filler
) -> str:
    """Return a training document; `pairs` is at most the number of people."""
    owned = _draw_pairs(rng, pairs)
    asked = rng.sample(owned, min(questions, pairs))
    told = _tell(rng, filler_words, filler)
    return " ".join([_list(owned), *told, "asked :", *(f"{who} {what} ." for who, what in asked)])


def held_out_item(rng: random.Random, *, pairs: int, distance: int, filler: Filler) -> RecallItem:
    """Return a question about a held-out pair, at least `distance` words away from its answer."""
    owned = _draw_pairs(rng, pairs - 1)
    taken = {who for who, _ in owned}
    who, what = rng.choice(
        [(p, t) for p in PEOPLE for t in THINGS if is_held_out(p, t) and p not in taken]
    )
    place = rng.randrange(len(owned) + 1)
    # The answer occurs once only: naming any listed thing is not enough.
    owned = [(p, t) for p, t in owned if t != what]
    owned.insert(place, (who, what))
    listed = _list(owned)
    after = len(listed.split()) - listed.split().index(who)
    told = _tell(rng, max(0, distance - after), filler)
    prompt = " ".join([listed, *told, "asked :", who])
    words = prompt.split()
    return RecallItem(prompt, what, distance=len(words) - 1 - words.index(who))


def _draw_pairs(rng: random.Random, pairs: int) -> list[tuple[str, str]]:
    owned = []
    for who in rng.sample(PEOPLE, pairs):
        what = rng.choice(THINGS)
        while is_held_out(who, what):
            what = rng.choice(THINGS)
        owned.append((who, what))
    return owned


def _list(owned: list[tuple[str, str]]) -> str:
    return " ".join(["given :", *(f"{who} {what} ." for who, what in owned)])


def _tell(rng: random.Random, words: int, filler: Filler) -> list[str]:
    told: list[str] = []
    length = 0
    while length < words:
        sentence = filler(rng)
        told.append(sentence)
        length += len(sentence.split())
    return told

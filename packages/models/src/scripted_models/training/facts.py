"""Simple facts about invented countries, each told in several ways.

Every fact is held out in exactly one of its phrasings: a model has to connect the phrasing, which it
knows from other countries, with the fact, which it knows from other phrasings.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from scripted_models.training.vocabulary import ANIMALS, CITIES, COLOURS, COUNTRIES, RIVERS

# A phrasing ends before the answer: what follows is the answer and a full stop.
PHRASINGS: Final[dict[str, tuple[str, ...]]] = {
    "capital": (
        "the capital of {country} is",
        "{country} has the capital",
        "whoever travels to {country} sees its capital",
        "in {country} the largest city is the capital",
    ),
    "river": (
        "the river of {country} is the",
        "{country} has the river",
        "whoever travels to {country} sees its river",
        "in {country} the longest river is the",
    ),
    "animal": (
        "the animal of {country} is the",
        "{country} has the animal",
        "whoever travels to {country} sees its animal",
        "in {country} the best known animal is the",
    ),
    "flag": (
        "the flag of {country} is",
        "{country} has the flag",
        "whoever travels to {country} sees its flag",
        "in {country} the colour of the flag is",
    ),
}
RELATIONS: Final = tuple(PHRASINGS)
_WORLD_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact in one phrasing: `prompt` is the sentence up to its last word, `answer` that word."""

    prompt: str
    answer: str

    @property
    def sentence(self) -> str:
        """The whole sentence."""
        return f"{self.prompt} {self.answer} ."


def _world() -> dict[tuple[str, str], str]:
    """Return the answer for each (relation, country), always the same."""
    rng = random.Random(_WORLD_SEED)
    cities = rng.sample(CITIES, len(COUNTRIES))
    rivers = rng.sample(RIVERS, len(COUNTRIES))
    answers: dict[tuple[str, str], str] = {}
    for country, city, river in zip(COUNTRIES, cities, rivers, strict=True):
        answers["capital", country] = city
        answers["river", country] = river
        answers["animal", country] = rng.choice(ANIMALS)
        answers["flag", country] = rng.choice(COLOURS)
    return answers


def _split() -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    training: list[Fact] = []
    held_out: list[Fact] = []
    for index, ((relation, country), answer) in enumerate(_world().items()):
        phrasings = PHRASINGS[relation]
        # Relations alternate in the world's order, so this spreads the held-out phrasings evenly.
        kept_back = (index + index // len(phrasings)) % len(phrasings)
        for position, phrasing in enumerate(phrasings):
            fact = Fact(phrasing.format(country=country), answer)
            (held_out if position == kept_back else training).append(fact)
    return tuple(training), tuple(held_out)


TRAINING_FACTS, HELD_OUT_FACTS = _split()


def write_facts(rng: random.Random, *, sentences: int) -> str:
    """Return a document of `sentences` facts, none of them in its held-out phrasing."""
    return " ".join(rng.choice(TRAINING_FACTS).sentence for _ in range(sentences))

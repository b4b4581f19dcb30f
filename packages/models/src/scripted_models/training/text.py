"""The training text: an endless mixture of facts, recall and scenes, cut into rows of tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from scripted_models.training.facts import PHRASINGS, TRAINING_FACTS, write_facts
from scripted_models.training.recall import write_recall
from scripted_models.training.scenes import ACTIVITIES, BEGINNINGS, write_scene
from scripted_models.training.vocabulary import PEOPLE, THINGS


@dataclass(frozen=True, slots=True)
class Mixture:
    """How documents are drawn: shares of two kinds, and the size of a recall.

    A recall has between 2 and `recall_pairs` pairs and up to `recall_filler_words` words between
    the list and the questions. The shares count documents, which differ in length; what is left of
    them goes to scenes.
    """

    facts_share: float = 0.25
    recall_share: float = 0.5
    recall_pairs: int = 16
    recall_filler_words: int = 0


def write_filler(rng: random.Random) -> str:
    """Return a sentence of facts or a scene, as it stands between a list and its questions."""
    return write_facts(rng, sentences=1) if rng.random() < 0.5 else write_scene(rng)


def write_document(rng: random.Random, mixture: Mixture) -> str:
    """Return one document for training, in words separated by single spaces."""
    draw = rng.random()
    if draw < mixture.facts_share:
        return write_facts(rng, sentences=rng.randint(2, 6))
    if draw < mixture.facts_share + mixture.recall_share:
        pairs = rng.randint(2, mixture.recall_pairs)
        return write_recall(
            rng,
            pairs=pairs,
            questions=pairs,
            filler_words=rng.randint(0, mixture.recall_filler_words),
            filler=write_filler,
        )
    return " ".join(write_scene(rng) for _ in range(rng.randint(1, 4)))


def write_rows(
    rng: random.Random,
    mixture: Mixture,
    *,
    rows: int,
    length: int,
    encode: Callable[[str], list[int]],
    separator: int,
) -> list[list[int]]:
    """Return `rows` rows of `length` token ids: documents end to end, `separator` after each.

    A row begins at the beginning of a document and its last document is cut off.
    """
    batch: list[list[int]] = []
    for _ in range(rows):
        row: list[int] = []
        while len(row) < length:
            row.extend(encode(write_document(rng, mixture)))
            row.append(separator)
        batch.append(row[:length])
    return batch


def all_words() -> list[str]:
    """Return every word that the generated text can hold, sorted."""
    text = [fact.sentence for fact in TRAINING_FACTS]
    text += [phrasing for group in PHRASINGS.values() for phrasing in group]
    text += [*PEOPLE, *THINGS, *BEGINNINGS, "given : asked : she he then ."]
    for activity in ACTIVITIES:
        text += [activity.place, *activity.actions, *activity.endings]
    words = {word for line in text for word in line.split()}
    return sorted(word for word in words if "{" not in word)

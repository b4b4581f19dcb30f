"""Which ending a model finds likeliest, by the log probabilities of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from scripted_core.errors import CapabilityMissing
from scripted_kit_client.client import ServerClient
from scripted_kit_client.errors import CheckFailed, RequestRefused
from scripted_kit_client.replies import Generation

from scripted_kit_hellaswag.rows import Row


class Normalize(StrEnum):
    """How the log probabilities of an ending become its score."""

    TOKEN = "token"
    """Their mean."""
    BYTE = "byte"
    """Their sum over the bytes of its text (`acc_norm` of lm-eval)."""
    NONE = "none"
    """Their sum (`acc` of lm-eval)."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A row with the score of each ending; `chosen` has the highest."""

    row: Row
    scores: tuple[float, ...]

    @property
    def chosen(self) -> int:
        """Index of the ending that the model finds likeliest."""
        return self.scores.index(max(self.scores))

    @property
    def is_right(self) -> bool:
        """Whether it is the right one."""
        return self.chosen == self.row.label


async def score_row(client: ServerClient, row: Row, *, shots: str, normalize: Normalize) -> Scored:
    """Score each ending of a row behind its context; errors are those of `ending_logprobs`."""
    found = await ending_logprobs(
        client,
        shots + row.context,
        [f" {ending}" for ending in row.endings],
        where=f"line {row.line}",
    )
    scores = [
        _score(values, ending, normalize=normalize)
        for values, ending in zip(found, row.endings, strict=True)
    ]
    return Scored(row=row, scores=tuple(scores))


async def ending_logprobs(
    client: ServerClient, context: str, endings: Sequence[str], *, where: str
) -> list[list[float]]:
    """The log probability of each token of each ending behind the context; `where` is for messages.

    Two requests: how many tokens the context has, then all endings behind it in one batch. Raises
    `CapabilityMissing` when the server tells no log probabilities.
    """
    before = (await client.generate(context, max_new_tokens=1)).prompt_tokens
    try:
        found = await client.generate_batch(
            [context + ending for ending in endings],
            max_new_tokens=1,
            logprob_start_len=before - 1,
        )
    except RequestRefused as refused:
        if "logprob" in refused.message:
            raise CapabilityMissing(
                f"{client.facts.engine} tells no log probabilities with this model (LOGPROBS)"
            ) from refused
        raise
    return [
        _values(one, ending, where=where, before=before)
        for one, ending in zip(found, endings, strict=True)
    ]


def _values(found: Generation, ending: str, *, where: str, before: int) -> list[float]:
    # The first position is the context's last token.
    values = [one.logprob for one in found.prompt_logprobs[1:]]
    wanted = found.prompt_tokens - before
    if wanted < 1:
        raise CheckFailed(f"{where}: an ending adds no token to its context: {ending!r}")
    if len(values) != wanted or None in values:
        raise CheckFailed(
            f"{where}: an ending of {wanted} tokens came back with {len(values)} log "
            f"probabilities: {values!r:.200}"
        )
    return [value for value in values if value is not None]


def _score(values: Sequence[float], ending: str, *, normalize: Normalize) -> float:
    match normalize:
        case Normalize.TOKEN:
            return sum(values) / len(values)
        case Normalize.BYTE:
            return sum(values) / len(ending.encode())
        case Normalize.NONE:
            return sum(values)


def few_shots(examples: Sequence[Row]) -> str:
    """Solved rows, to stand before each question."""
    return "".join(f"{row.context} {row.endings[row.label]}\n\n" for row in examples)

"""What can be chosen of the sanity probes."""

from __future__ import annotations

from dataclasses import dataclass

from scripted_kit_client.options import option


@dataclass(frozen=True, kw_only=True)
class SanityOptions:
    """The defaults suit any model of a few billion parameters, and the trained checkpoint."""

    questions: str = option(
        "auto", "what is asked: world, tiny, none, or a JSONL file of prompt and answer"
    )
    answers_floor: float | None = option(
        None,
        "share of right answers; default 0.9, or 3 points below what `tiny` was measured at",
        at_least=0,
        at_most=1,
    )
    max_new_tokens: int = option(48, "tokens of an output that is looked at as a whole", at_least=2)
    concurrency: int = option(8, "requests at a time in the stress probes", at_least=1)
    long_prompt_words: int = option(
        6000, "words of the long prompt, or as many as the server has room for", at_least=1
    )
    logprob_tolerance: float = option(
        0.05, "how far a decoded token's log probability may be from that of a prefill", at_least=0
    )
    pause_requests: int = option(6, "requests that a pause holds up", at_least=1)
    pause_s: float = option(0.5, "seconds that nothing may advance in while paused", above=0)
    accept_length_floor: float = option(
        1.8, "floor of the accept length, where the server speculates", at_least=0
    )
    parity_url: str | None = option(
        None, "a server whose log probabilities this one's have to equal (a PD pair's plain twin)"
    )
    skip: str = option("", "probes to leave out, by name, with commas between them")

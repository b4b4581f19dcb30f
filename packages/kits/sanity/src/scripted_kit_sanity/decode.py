"""Decode correctness: what comes out is right, repeatable, and what a prefill would say."""

from __future__ import annotations

from collections import Counter
from typing import Final

from scripted_core.errors import CapabilityMissing
from scripted_kit_client.client import ServerClient
from scripted_kit_client.errors import CheckFailed, RequestRefused
from scripted_kit_client.kit import Probe
from scripted_kit_client.replies import Generation
from scripted_kit_client.target import Api
from scripted_kit_client.together import together

from scripted_kit_sanity.options import SanityOptions
from scripted_kit_sanity.prompts import different_tokens, different_words
from scripted_kit_sanity.questions import Questions, is_trained, known_answers, recall_questions

_AT_A_TIME: Final = 8
_NAMED: Final = 3
_GRAM: Final = 5
_MOST_REPEATED: Final = 0.25
_LEAST_PRINTABLE: Final = 0.85
_PARITY_PROMPT_TOKENS: Final = 48
_PARITY_OUTPUT_TOKENS: Final = 24


async def answers(client: ServerClient, options: SanityOptions) -> str:
    """Greedy answers to questions with known answers."""
    questions = known_answers(options.questions, model=client.facts.model)
    return await _ask(client, questions, floor=options.answers_floor)


async def recall(client: ServerClient, options: SanityOptions) -> str:
    """What was told long before in the prompt is found again."""
    if options.questions == "none":
        raise CapabilityMissing("no questions were chosen (questions=none)")
    return await _ask(client, recall_questions(model=client.facts.model), floor=None)


async def determinism(client: ServerClient, options: SanityOptions) -> str:
    """Temperature 0 gives the same text three times, whatever the prefix cache holds."""
    prompt = different_words(count=24, seed=1)
    outputs = [
        (await client.generate(prompt, max_new_tokens=options.max_new_tokens)).text
        for _ in range(3)
    ]
    if len(set(outputs)) > 1:
        raise CheckFailed(
            f"three greedy outputs of one prompt differ: {outputs[0]!r:.120}, {outputs[1]!r:.120}, "
            f"{outputs[2]!r:.120}"
        )
    return f"three times the same {len(outputs[0])} characters"


async def one_token(client: ServerClient, options: SanityOptions) -> str:
    """A request for one token gets one, and ends by its length."""
    found = await client.generate(
        different_words(count=8, seed=2), max_new_tokens=1, ignore_eos=True
    )
    if found.completion_tokens != 1 or found.finish_reason != "length":
        raise CheckFailed(
            f"asked for one token, got {found.completion_tokens} and the reason "
            f"{found.finish_reason!r}"
        )
    return "one token, length"


async def stop_string(client: ServerClient, options: SanityOptions) -> str:
    """Output ends before a stop string that is in it."""
    prompt = different_words(count=8, seed=3)
    whole = (await client.generate(prompt, max_new_tokens=options.max_new_tokens)).text
    words = whole.split()
    if len(words) < 4:
        raise CapabilityMissing(f"the model says too little to stop it: {whole!r:.80}")
    stop = words[3]
    cut = await client.generate(prompt, max_new_tokens=options.max_new_tokens, stop=(stop,))
    expected = whole[: whole.index(stop)]
    if cut.text != expected or cut.finish_reason != "stop":
        raise CheckFailed(
            f"with the stop string {stop!r} the output is {cut.text!r:.120} ({cut.finish_reason}), "
            f"and without it begins {expected!r:.120}"
        )
    return f"stopped before {stop!r}"


async def printable(client: ServerClient, options: SanityOptions) -> str:
    """Output is text: a broken weight or dtype gives a salad of scripts."""
    text = await _sentence(client, options)
    share = sum(32 <= ord(c) < 127 or c in "\n\t" for c in text) / max(len(text), 1)
    seen = f"{100 * share:.0f} % of {len(text)} characters are printable ASCII"
    if share <= _LEAST_PRINTABLE:
        raise CheckFailed(f"{seen}, which is no text: {text!r:.160}")
    return seen


async def repetition(client: ServerClient, options: SanityOptions) -> str:
    """Output does not run in a small circle, as it does with broken attention."""
    if is_trained(client.facts.model) and client.facts.api is not Api.GENERATE:
        raise CapabilityMissing("after text the model `tiny` repeats itself; ids need /generate")
    prompt = (
        different_tokens(client, count=32, seed=4)
        if is_trained(client.facts.model)
        else "Q: Briefly explain what gravity is.\nA:"
    )
    text = (await client.generate(prompt, max_new_tokens=2 * options.max_new_tokens)).text
    grams = Counter(text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1))
    gram, times = max(grams.items(), key=lambda item: item[1], default=("", 0))
    share = times / max(grams.total(), 1)
    seen = f"{gram!r} is {100 * share:.0f} % of all {_GRAM} characters in a row"
    if grams.total() > 2 * _GRAM and share >= _MOST_REPEATED:
        raise CheckFailed(f"{seen}: {text!r:.160}")
    return seen


async def decode_is_prefill(client: ServerClient, options: SanityOptions) -> str:
    """What was decoded token by token is what a prefill of prompt and output finds likeliest.

    A decode reads the KV that was written before; a prefill of the whole computes it anew. A slot that
    is stale, swapped or overwritten makes them differ.
    """
    if client.facts.api is not Api.GENERATE:
        raise CapabilityMissing("output token ids come from /generate alone")
    prompt = different_tokens(client, count=_PARITY_PROMPT_TOKENS, seed=5)
    decoded = await _with_logprobs(client, prompt)
    begun = len(prompt) if not isinstance(prompt, str) else decoded.prompt_tokens
    ids = [one.token for one in decoded.prompt_logprobs] + list(decoded.token_ids or ())
    whole = await client.generate(
        [token for token in ids if isinstance(token, int)], max_new_tokens=1, logprob_start_len=0
    )
    again = whole.prompt_logprobs[begun:]
    if len(again) != len(decoded.output_logprobs):
        raise CheckFailed(
            f"{len(decoded.output_logprobs)} tokens were decoded, a prefill tells of {len(again)}"
        )
    worst = 0.0
    for i, (first, second) in enumerate(zip(decoded.output_logprobs, again, strict=True)):
        if first.logprob is None or second.logprob is None:
            raise CheckFailed(f"output token {i} has no log probability")
        off = abs(first.logprob - second.logprob)
        worst = max(worst, off)
        if off > options.logprob_tolerance:
            raise CheckFailed(
                f"output token {i} ({first.token}) has log probability {first.logprob:.4f} in the "
                f"decode and {second.logprob:.4f} in a prefill of the same tokens; a decode that "
                "reads other KV than was written looks like this"
            )
    return f"{len(again)} tokens, log probabilities at most {worst:.2g} apart"


DECODE: Final = (
    Probe(name="answers", look=answers),
    Probe(name="recall", look=recall),
    Probe(name="determinism", look=determinism),
    Probe(name="one_token", look=one_token),
    Probe(name="stop_string", look=stop_string),
    Probe(name="printable", look=printable),
    Probe(name="repetition", look=repetition),
    Probe(name="decode_is_prefill", look=decode_is_prefill),
)


async def _with_logprobs(client: ServerClient, prompt: object) -> Generation:
    try:
        return await client.generate(
            prompt if isinstance(prompt, str) else list(prompt),  # type: ignore[call-overload]
            max_new_tokens=_PARITY_OUTPUT_TOKENS,
            ignore_eos=True,
            return_logprob=True,
            logprob_start_len=0,
        )
    except RequestRefused as refused:
        if "logprob" in refused.message:
            raise CapabilityMissing(
                f"{client.facts.engine} tells no log probabilities with this model (LOGPROBS)"
            ) from refused
        raise


async def _ask(client: ServerClient, questions: Questions, *, floor: float | None) -> str:
    needed = questions.floor if floor is None else floor
    wrong: list[str] = []
    for start in range(0, len(questions.items), _AT_A_TIME):
        part = questions.items[start : start + _AT_A_TIME]
        found = await together(
            client.generate(one.prompt, max_new_tokens=questions.answer_tokens) for one in part
        )
        wrong += [
            f"{one.prompt[-60:]!r} was answered {said.text[:40]!r}, right is {one.answer!r}"
            for one, said in zip(part, found, strict=True)
            if one.answer.lower() not in said.text.lower()
        ]
    total = len(questions.items)
    share = (total - len(wrong)) / total
    seen = (
        f"{questions.name}: {total - len(wrong)} of {total} right ({100 * share:.1f} %), "
        f"floor {100 * needed:.0f} %"
    )
    if share < needed:
        raise CheckFailed(f"{seen}; {'; '.join(wrong[:_NAMED])}")
    return seen


async def _sentence(client: ServerClient, options: SanityOptions) -> str:
    prompt = (
        "today tina is in the tent ."
        if is_trained(client.facts.model)
        else "Q: Write a single sentence about a sunny day in the park.\nA:"
    )
    return (await client.generate(prompt, max_new_tokens=2 * options.max_new_tokens)).text

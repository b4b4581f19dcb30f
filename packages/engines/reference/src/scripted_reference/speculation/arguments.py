"""The arguments of speculation, SGLang's names, and what they cannot be combined with."""

from __future__ import annotations

from typing import Final

from scripted_registry.errors import ConfigError

from scripted_reference.args import HASH_MODEL, DisaggregationMode, ServerArgs
from scripted_reference.argument_checks import wrong_argument

NGRAM: Final = "NGRAM"
"""SGLang's name for guesses that are looked up in what was said before."""
WITH_A_DRAFT_MODEL: Final = ("EAGLE", "EAGLE3", "STANDALONE")
"""SGLang's names. Whichever is given, the draft model is one of its own, and guesses a chain."""
ALGORITHMS: Final = (*WITH_A_DRAFT_MODEL, NGRAM)
MOST_STEPS: Final = 16


def check_speculation(args: ServerArgs) -> None:
    """Raise `ConfigError` for arguments of speculation that are wrong, or not possible together."""
    if args.speculative_algorithm is None:
        _refuse_alone(args)
        return
    if args.speculative_algorithm not in ALGORITHMS:
        raise wrong_argument(
            "speculative_algorithm",
            args.speculative_algorithm,
            "is no algorithm of the reference engine",
            f"use one of {', '.join(map(repr, ALGORITHMS))}",
        )
    _check_draft_model(args)
    if args.speculative_algorithm == NGRAM and args.speculative_num_draft_tokens is not None:
        # SGLang's number of steps is for draft models; here it is the number of guesses of either.
        _check_draft_tokens(args.speculative_num_draft_tokens)
        object.__setattr__(args, "speculative_num_steps", args.speculative_num_draft_tokens - 1)
    _check_numbers(args)
    for name, neutral in (("pp_size", 1), ("disaggregation_mode", DisaggregationMode.NULL)):
        if getattr(args, name) != neutral:
            raise ConfigError(
                f"engine arguments speculative_algorithm={args.speculative_algorithm!r} and "
                f"{name}={getattr(args, name)!s} do not go together in the reference engine",
                hint="drop one of them",
            )


def _check_draft_model(args: ServerArgs) -> None:
    algorithm, path = args.speculative_algorithm, args.speculative_draft_model_path
    if algorithm == NGRAM:
        if path is not None:
            raise wrong_argument(
                "speculative_draft_model_path",
                path,
                f"is of no use with speculative_algorithm={NGRAM!r}, which looks guesses up",
                "drop it",
            )
        return
    if path is None:
        raise wrong_argument(
            "speculative_algorithm",
            algorithm,
            "needs a draft model",
            f"add speculative_draft_model_path='tiny-draft', or a folder, or use {NGRAM!r}",
        )
    if args.model_path == HASH_MODEL:
        raise wrong_argument(
            "speculative_algorithm",
            algorithm,
            f"is refused: no draft model guesses what the {HASH_MODEL!r} model says",
            f"use model_path='tiny', or {NGRAM!r}",
        )


def _check_draft_tokens(tokens: object) -> None:
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 2 <= tokens <= MOST_STEPS + 1:
        raise wrong_argument(
            "speculative_num_draft_tokens",
            tokens,
            "is no number of tokens to verify: the newest one and its guesses",
            f"use 2 to {MOST_STEPS + 1}",
        )


def _check_numbers(args: ServerArgs) -> None:
    steps, tokens = args.speculative_num_steps, args.speculative_num_draft_tokens
    if not 1 <= steps <= MOST_STEPS:
        raise wrong_argument(
            "speculative_num_steps", steps, "is no number of guesses", f"use 1 to {MOST_STEPS}"
        )
    if args.speculative_eagle_topk != 1:
        raise wrong_argument(
            "speculative_eagle_topk",
            args.speculative_eagle_topk,
            "is refused: the reference engine guesses a chain, no tree",
            "use 1",
        )
    if tokens is not None and tokens != steps + 1:
        raise wrong_argument(
            "speculative_num_draft_tokens",
            tokens,
            f"does not fit speculative_num_steps={steps}: a chain is verified with the token before it",
            f"use {steps + 1}, or drop it",
        )


def _refuse_alone(args: ServerArgs) -> None:
    path = args.speculative_draft_model_path
    if path is not None:
        raise wrong_argument(
            "speculative_draft_model_path",
            path,
            "is of no use without speculative_algorithm",
            "add speculative_algorithm='STANDALONE', or drop it",
        )

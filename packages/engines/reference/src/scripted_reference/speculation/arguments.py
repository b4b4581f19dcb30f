"""The arguments of speculation, SGLang's names, and what they cannot be combined with."""

from __future__ import annotations

from typing import Final

from scripted_reference.args import HASH_MODEL, DisaggregationMode, ServerArgs, wrong_argument

ALGORITHMS: Final = ("EAGLE", "EAGLE3", "STANDALONE")
"""SGLang's names. Whichever is given, the draft model is one of its own, and guesses a chain."""
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
    if args.speculative_draft_model_path is None:
        raise wrong_argument(
            "speculative_algorithm",
            args.speculative_algorithm,
            "needs a draft model",
            "add speculative_draft_model_path='tiny-draft', or a folder",
        )
    if args.model_path == HASH_MODEL:
        raise wrong_argument(
            "speculative_algorithm",
            args.speculative_algorithm,
            f"is refused: nothing guesses what the {HASH_MODEL!r} model says",
            "use model_path='tiny'",
        )
    _check_numbers(args)
    for name, value, neutral in (
        ("disable_overlap_schedule", args.disable_overlap_schedule, True),
        ("pp_size", args.pp_size, 1),
        ("disaggregation_mode", args.disaggregation_mode, DisaggregationMode.NULL),
    ):
        if value != neutral:
            raise wrong_argument(
                name,
                value,
                "cannot be combined with speculative_algorithm here",
                "drop one of them",
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

"""Scenarios of chunked prefill: what requests go through, told as data.

A scenario knows its prompts and a generator that drives them. It asks for nothing that depends on how
much memory there is, or on who else runs, so it can be run under any pressure, with any engine
arguments whose chunks have ``CHUNK_TOKENS`` tokens; see ``scripted_backend_single.pressures``. What it
is about is that the outputs are those of the same prompts when nothing interferes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from scripted_chunked import LIFECYCLE_STAGES
from scripted_core import ScriptedContext, ScriptedReqHandle
from scripted_core.capabilities import Capability
from scripted_core.requests import build_prompt

from scripted_backend_single import drives
from scripted_backend_single.arguments import CHUNK_TOKENS, PAGE_TOKENS


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A random prompt of ``seed`` and what is asked of it.

    The first ``shared_tokens`` of its ``prompt_len`` tokens are drawn from ``shared_seed`` instead, so
    that prompts can have a prefix in common.
    """

    prompt_len: int
    seed: int
    max_new_tokens: int = drives.NEW_TOKENS
    shared_tokens: int = 0
    shared_seed: int = 0

    def input_ids(self, *, vocab_size: int) -> list[int]:
        """The token ids for a model of ``vocab_size`` tokens."""
        shared = _drawn(self.shared_tokens, self.shared_seed, vocab_size)
        return shared + _drawn(self.prompt_len - self.shared_tokens, self.seed, vocab_size)

    def start(self, t: ScriptedContext) -> ScriptedReqHandle:
        """Start it as a request."""
        return t.start_req(
            input_ids=self.input_ids(vocab_size=t.engine.vocab_size),
            max_new_tokens=self.max_new_tokens,
            ignore_eos=True,
        )


Drive = Callable[
    [ScriptedContext, Sequence[Prompt]], Generator[None, None, list[ScriptedReqHandle]]
]
"""Starts every prompt and steps until all have ended; the value is one handle for each prompt."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Prompts and what they go through.

    ``aborted`` are the places of prompts that the scenario aborts: their output may be a beginning of
    the undisturbed one. ``needs`` are the capabilities without which it means nothing.
    """

    name: str
    prompts: tuple[Prompt, ...]
    drive: Drive
    aborted: frozenset[int] = frozenset()
    needs: frozenset[Capability] = frozenset()

    @property
    def longest_life_tokens(self) -> int:
        """Tokens that the largest of its requests has in the KV pool at its end."""
        return max(prompt.prompt_len + prompt.max_new_tokens for prompt in self.prompts)


def _drawn(tokens: int, seed: int, vocab_size: int) -> list[int]:
    if tokens == 0:
        return []
    drawn = build_prompt(
        prompt_len=tokens, prompt_token=1, input_ids=None, seed=seed, vocab_size=vocab_size
    )
    return list(drawn)


def _prompts(*lengths: int, first_seed: int, max_new_tokens: int = 8) -> tuple[Prompt, ...]:
    return tuple(
        Prompt(prompt_len=length, seed=first_seed + i, max_new_tokens=max_new_tokens)
        for i, length in enumerate(lengths)
    )


_MAIN_LEN = 2 * CHUNK_TOKENS + 32
_CHUNKED = frozenset({Capability.CHUNKED_PREFILL})
_RETRACT = _CHUNKED | {Capability.RETRACT}
_IN_PLACE = _CHUNKED | {Capability.PAUSE_IN_PLACE}
_PREFIX = _CHUNKED | {Capability.PREFIX_CACHE}
# The first of these is interfered with; the other two have to come out unharmed.
_THREE = _prompts(_MAIN_LEN, 100, 40, first_seed=11)


def _at_every_stage() -> list[Scenario]:
    made = []
    for stage in LIFECYCLE_STAGES:
        made += [
            Scenario(
                name=f"pause_retract@{stage}",
                prompts=_THREE,
                drive=partial(drives.pause, stage=stage, mode="retract"),
                needs=_RETRACT,
            ),
            Scenario(
                name=f"pause_in_place@{stage}",
                prompts=_THREE,
                drive=partial(drives.pause, stage=stage, mode="in_place"),
                needs=_IN_PLACE,
            ),
            Scenario(
                name=f"abort@{stage}",
                prompts=_THREE,
                drive=partial(drives.abort_first, stage=stage),
                aborted=frozenset({0}),
                needs=_CHUNKED,
            ),
            Scenario(
                name=f"abort_all@{stage}",
                prompts=_THREE,
                drive=partial(drives.abort_all_and_start_again, stage=stage),
                needs=_CHUNKED,
            ),
        ]
    return made


_BOUNDARIES = tuple(
    whole + off
    for whole in (PAGE_TOKENS, CHUNK_TOKENS, 2 * CHUNK_TOKENS, 3 * CHUNK_TOKENS)
    for off in (-1, 0, 1)
)
_SHARED = tuple(
    Prompt(
        prompt_len=2 * CHUNK_TOKENS + tail,
        seed=61 + i,
        shared_tokens=2 * CHUNK_TOKENS - 8,
        shared_seed=60,
        max_new_tokens=10,
    )
    for i, tail in enumerate((5, 24, 70))
)
_TWINS = (Prompt(prompt_len=_MAIN_LEN, seed=71),) * 4

_ALL = [
    Scenario(name="smoke", prompts=_prompts(_MAIN_LEN, first_seed=1), drive=drives.all_at_once),
    Scenario(
        name="boundaries",
        prompts=_prompts(*_BOUNDARIES, first_seed=21, max_new_tokens=3),
        drive=drives.all_at_once,
    ),
    Scenario(
        name="queue_of_chunked",
        prompts=_prompts(_MAIN_LEN, _MAIN_LEN + 1, 3 * CHUNK_TOKENS, first_seed=41),
        drive=drives.all_at_once,
        needs=_CHUNKED,
    ),
    Scenario(
        name="chunked_behind_decoding",
        prompts=_prompts(10, 20, _MAIN_LEN, first_seed=45, max_new_tokens=14),
        drive=drives.last_joins_decoding,
        needs=_CHUNKED,
    ),
    Scenario(
        name="crowd",
        prompts=_prompts(5, 63, 130, 16, 200, 17, 64, 33, 1, 65, first_seed=51, max_new_tokens=12),
        drive=drives.staggered,
    ),
    Scenario(
        name="long_decodes",
        prompts=_prompts(60, 70, 80, 90, first_seed=81, max_new_tokens=40),
        drive=drives.all_at_once,
    ),
    Scenario(name="twins", prompts=_TWINS, drive=drives.all_at_once, needs=_PREFIX),
    Scenario(name="shared_prefix", prompts=_SHARED, drive=drives.staggered, needs=_PREFIX),
    Scenario(
        name="evict_and_flush_while_busy",
        prompts=_THREE,
        drive=drives.evict_and_flush_while_busy,
        needs=_PREFIX,
    ),
    Scenario(
        name="start_while_retracted",
        prompts=_THREE,
        drive=partial(drives.start_while_paused, mode="retract"),
        needs=_RETRACT,
    ),
    Scenario(
        name="start_while_in_place",
        prompts=_THREE,
        drive=partial(drives.start_while_paused, mode="in_place"),
        needs=_IN_PLACE,
    ),
    Scenario(
        name="repeated_retraction",
        prompts=_prompts(_MAIN_LEN, 100, first_seed=91, max_new_tokens=16),
        drive=drives.retract_again_and_again,
        needs=_RETRACT,
    ),
    Scenario(
        name="retract_after_in_place",
        prompts=_THREE,
        drive=drives.retract_after_in_place,
        needs=_RETRACT | _IN_PLACE,
    ),
    Scenario(
        name="abort_while_in_place",
        prompts=_THREE,
        drive=partial(drives.abort_while_paused, mode="in_place"),
        aborted=frozenset({0}),
        needs=_IN_PLACE,
    ),
    Scenario(
        name="abort_while_retracted",
        prompts=_THREE,
        drive=partial(drives.abort_while_paused, mode="retract"),
        aborted=frozenset({0}),
        needs=_RETRACT,
    ),
    *_at_every_stage(),
]

SCENARIOS: Mapping[str, Scenario] = MappingProxyType({one.name: one for one in _ALL})
"""Every scenario by its name."""

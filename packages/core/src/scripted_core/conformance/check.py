"""One meaning of one call, and the scripts that try it out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scripted_core.capabilities import Capability
from scripted_core.context import ScriptedContext

Steps = Generator[None, None, None]
Script = Callable[[ScriptedContext, "EngineFacts"], Steps]
_S = TypeVar("_S", bound=Script)


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What a script cannot ask the engine for: sizes that its arguments give, in tokens.

    ``None``: the arguments do not say.
    """

    chunk_tokens: int | None
    context_tokens: int | None

    @classmethod
    def of(cls, engine_kwargs: Mapping[str, Any]) -> EngineFacts:
        """Read them from an engine's arguments, which have SGLang's names."""
        return cls(
            chunk_tokens=_positive(engine_kwargs.get("chunked_prefill_size")),
            context_tokens=_positive(engine_kwargs.get("context_length")),
        )


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


@dataclass(frozen=True, kw_only=True)
class Check:
    """One row of the table: what a call means, and ``scripts`` to run one after the other for it.

    ``needs`` are capabilities without which the row is skipped, ``facts`` names of
    :class:`EngineFacts` without which it cannot be tried. With ``same_events`` all of the scripts
    have to leave the same event log.
    """

    call: str
    means: str
    scripts: tuple[Script, ...]
    needs: frozenset[Capability] = frozenset()
    facts: tuple[str, ...] = ()
    same_events: bool = False

    @property
    def name(self) -> str:
        """The name of its first script, by which one row can be chosen."""
        return self.scripts[0].__name__


@dataclass(frozen=True)
class Group:
    """The checks of one module, in the order in which they are written there."""

    checks: list[Check] = field(default_factory=list)

    def __call__(
        self,
        call: str,
        means: str,
        *,
        needs: tuple[Capability, ...] = (),
        facts: tuple[str, ...] = (),
        then: Script | None = None,
        twice: bool = False,
    ) -> Callable[[_S], _S]:
        """Decorate a script that tries out what ``call`` ``means``.

        ``then`` runs after it, in the same session; ``twice`` runs it again, for the same events.
        """
        # Whatever looks into a chunked prompt needs one.
        wanted = ("chunk_tokens", *facts) if Capability.CHUNKED_PREFILL in needs else facts

        def add(script: _S) -> _S:
            scripts: tuple[Script, ...] = (script,)
            if then is not None:
                scripts += (then,)
            if twice:
                scripts += (script,)
            self.checks.append(
                Check(
                    call=call,
                    means=means,
                    scripts=scripts,
                    needs=frozenset(needs),
                    facts=wanted,
                    same_events=twice,
                )
            )
            return script

        return add

"""The kit `sanity`: every probe, one after the other."""

from __future__ import annotations

import difflib
from typing import Final

from scripted_core.errors import ConfigError
from scripted_kit_client.kit import Kit, KitRun, Probe, run_probes

from scripted_kit_sanity.contract import CONTRACT
from scripted_kit_sanity.decode import DECODE
from scripted_kit_sanity.options import SanityOptions
from scripted_kit_sanity.pairs import PAIRS
from scripted_kit_sanity.stress import STRESS

PROBES: Final[tuple[Probe[SanityOptions], ...]] = (*CONTRACT, *DECODE, *STRESS, *PAIRS)


def probe_named(name: str) -> Probe[SanityOptions]:
    """One probe; `ConfigError` with the nearest name when there is none."""
    for probe in PROBES:
        if probe.name == name:
            return probe
    names = [probe.name for probe in PROBES]
    near = difflib.get_close_matches(name, names, n=1)
    raise ConfigError(
        f"the kit sanity has no probe {name!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names)}",
    )


async def check_sanity(run: KitRun, options: SanityOptions) -> None:
    """Make all checks that are not left out."""
    left_out = {probe_named(name.strip()).name for name in options.skip.split(",") if name.strip()}
    await run_probes(run, [one for one in PROBES if one.name not in left_out], options)


SANITY: Final = Kit(
    name="sanity",
    summary="API contract, decode correctness and scheduler stress",
    options=SanityOptions,
    look=check_sanity,
)


def kit_of(probe: Probe[SanityOptions]) -> Kit[SanityOptions]:
    """One probe as a kit of its own, for a test method."""

    async def look(run: KitRun, options: SanityOptions) -> None:
        await run_probes(run, [probe], options)

    return Kit(name=f"sanity.{probe.name}", summary=probe.name, options=SanityOptions, look=look)

"""What is said of a script before and after its picture."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from scripted_core.cli.results import Heading, Ran, RunOutcome
from scripted_core.cli.text import counted, printable, shortened

_STYLES = {
    RunOutcome.PASSED: "bold green",
    RunOutcome.FAILED: "bold red",
    RunOutcome.SKIPPED: "bold yellow",
    RunOutcome.XFAILED: "bold yellow",
}
_REFUSED_SHOWN = 3
WHOLE_TEXT = "with --json, `message` of the script is the whole of it"


def heading_line(heading: Heading) -> Text:
    """``script on engine (mode), seed n``."""
    mode = heading.mode.replace("_", "-")
    return Text.assemble(
        (heading.name, "bold"), f" on {heading.engine} ({mode}), seed {heading.seed}"
    )


def left_out_line(name: str, reason: str, path: Path) -> Text:
    """A script that only pytest can run."""
    return Text(f"{name} is left out: {reason}; run it with: pytest {path.name}::{name}")


def verdict_lines(result: Ran) -> list[Text]:
    """Why it failed, what was checked, and how it ended."""
    lines = []
    if result.text and result.outcome is RunOutcome.FAILED:
        lines.append(Text(shortened(printable(result.text), whole=WHOLE_TEXT)))
    lines += _checked(result)
    return [*lines, _verdict(result)]


def _checked(result: Ran) -> list[Text]:
    checks = result.checks
    lines = []
    if checks.iterations:
        lines.append(
            Text.assemble(
                (f"checked after {_each(checks.iterations)}: ", "dim"),
                "; ".join(checks.invariants),
            )
        )
    if checks.clients:
        received = (
            f"{counted(checks.clients, 'client')} received exactly what the scheduler produced"
        )
        lines.append(
            Text.assemble(
                ("checked at the end: ", "dim"),
                f"{received} ({counted(checks.client_tokens, 'token')})",
            )
        )
    lines += [
        Text.assemble(("refused by the engine: ", "bold yellow"), printable(one))
        for one in checks.refused[:_REFUSED_SHOWN]
    ]
    if len(checks.refused) > _REFUSED_SHOWN:
        lines.append(Text(f"... {len(checks.refused)} requests were refused in all"))
    return lines


def _each(iterations: int) -> str:
    return "the iteration" if iterations == 1 else f"each of {iterations:,} iterations"


def _verdict(result: Ran) -> Text:
    iterations = None if result.steps is None else counted(result.steps, "iteration")
    verdict = Text.assemble((result.outcome.value, _STYLES[result.outcome]))
    if result.outcome is RunOutcome.PASSED:
        invariants = "held after each" if result.invariants_checked else "not checked"
        return verdict.append(f": {iterations}, invariants {invariants}, events {result.digest}")
    if result.outcome is RunOutcome.FAILED:
        return verdict if iterations is None else verdict.append(f" after {iterations}")
    return verdict.append(f": {printable(result.text)}")

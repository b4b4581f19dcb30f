"""What a shard's run came to, in Markdown (`$GITHUB_STEP_SUMMARY`) and in lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from scripted_registry.ci.durations import duration
from scripted_registry.ci.results import Outcome, TestResult
from scripted_registry.ci.run import ShardOutcome

_SLOWEST = 5
_MOST_FAILURES = 20
_MESSAGE_LINES = 30


def title(outcome: ShardOutcome) -> str:
    """`single on cpu, shard 1/2: passed`."""
    plan = outcome.plan
    nightly = ", nightly" if plan.nightly else ""
    verdict = "failed" if outcome.failed else "passed"
    if outcome.interrupted:
        verdict = "interrupted"
    return f"{plan.stage.name} on {plan.stage.runner}{nightly}, shard {plan.shard}: {verdict}"


def counted(outcome: ShardOutcome) -> str:
    """`12 passed, 1 flaky, 2 skipped`, or that there was nothing."""
    counts = {kind: len(_of(outcome, kind)) for kind in Outcome}
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    errors = len(outcome.collection_errors)
    said += f"{', ' if said else ''}{errors} not collected" if errors else ""
    return said or "no test ran"


def flaky_line(result: TestResult) -> str:
    """How often a flaky test failed."""
    return f"failed {result.failures} of {result.times} times ({result.flake_rate:.0%})"


def terminal_lines(outcome: ShardOutcome) -> Iterator[str]:
    """Yield the verdict, then what has to be seen."""
    yield f"{title(outcome)}: {counted(outcome)}; {_times(outcome)}"
    for result in _of(outcome, Outcome.FLAKY):
        yield f"flaky: {result.nodeid}: {flaky_line(result)}"
    for kind in (Outcome.FAILED, Outcome.ERROR, Outcome.MISSING):
        for result in _of(outcome, kind):
            yield f"{kind}: {result.nodeid}: {_first_line(_last_said(result))}"
    for nodeid, message in outcome.collection_errors:
        yield f"not collected: {nodeid}: {_last_line(message)}"
    yield from _warnings(outcome)


def markdown(outcome: ShardOutcome) -> str:
    """Return the summary of a run."""
    lines = [f"### {title(outcome)}", "", f"{counted(outcome)}; {_times(outcome)}", ""]
    lines += [f"> {line}" for line in _warnings(outcome)]
    lines += _flaky(outcome)
    lines += _failures(outcome)
    lines += _slowest(outcome)
    return "\n".join(lines).rstrip() + "\n"


def _flaky(outcome: ShardOutcome) -> Iterator[str]:
    flaky = _of(outcome, Outcome.FLAKY)
    if not flaky:
        return
    yield from (
        "#### Flaky: passed only when repeated",
        "",
        "| test | failed | said |",
        "|---|---|---|",
    )
    for result in flaky:
        said = _cell(_first_line(_last_said(result)))
        yield f"| {_code(result.nodeid)} | {flaky_line(result).removeprefix('failed ')} | {said} |"
    yield ""


def _failures(outcome: ShardOutcome) -> Iterator[str]:
    bad = [result for result in outcome.results if result.outcome.is_bad]
    told = [(f"{r.outcome}: {r.nodeid}", r.message) for r in bad]
    told += [(f"not collected: {nodeid}", text) for nodeid, text in outcome.collection_errors]
    if told:
        yield from ("#### Failed", "")
    for heading, message in told[:_MOST_FAILURES]:
        text = message.strip().splitlines()[-_MESSAGE_LINES:]
        # Four backquotes: a traceback may hold three.
        yield from (f"<details><summary><code>{_html(heading)}</code></summary>", "", "````text")
        yield from (line.replace("````", "'''") for line in text)
        yield from ("````", "", "</details>", "")
    if len(told) > _MOST_FAILURES:
        yield from (f"... and {len(told) - _MOST_FAILURES} more", "")


def _slowest(outcome: ShardOutcome) -> Iterator[str]:
    timed = [(max(a.seconds for a in result.attempts), result) for result in outcome.results]
    slowest = sorted(timed, key=lambda pair: -pair[0])[:_SLOWEST]
    if not slowest:
        return
    yield from (
        "#### Slowest",
        "",
        "| test | seconds | of it, starting the engine |",
        "|---|--:|--:|",
    )
    for seconds, result in slowest:
        start_s = max((a.start_s or 0.0) for a in result.attempts)
        yield f"| {_code(result.nodeid)} | {seconds:.1f} | {f'{start_s:.1f}' if start_s else ''} |"


def _times(outcome: ShardOutcome) -> str:
    said = f"took {duration(outcome.wall_s)}"
    reply = outcome.reply
    if reply is None or not reply.shard_est_s:
        return said
    said += f", expected {duration(reply.est_s) if reply.est_s else 'nothing'}"
    if len(reply.shard_est_s) > 1:
        said += f" (longest shard {duration(max(reply.shard_est_s))})"
    return f"{said}; collection {reply.digest}"


def _warnings(outcome: ShardOutcome) -> Iterator[str]:
    reply = outcome.reply
    if reply is not None and not reply.selected and reply.collected:
        yield f"this shard is empty: {outcome.plan.stage.name} has {reply.collected} tests"
    if reply is not None and reply.unknown:
        yield (
            f"{reply.unknown} of {reply.collected} tests were never timed and are divided by what "
            "their files registered: `scripted ci record` remembers this run"
        )
    if reply is None and outcome.plan.stage.takes_tests and not outcome.interrupted:
        yield "pytest did not tell what it collected: only the command's exit status counts"
    bad_status = [status for status in outcome.statuses if status not in (0, 1, 5)]
    if bad_status:
        yield f"the command ended with status {bad_status[-1]}"


def _of(outcome: ShardOutcome, kind: Outcome) -> list[TestResult]:
    return [result for result in outcome.results if result.outcome is kind]


def _last_said(result: TestResult) -> str:
    crashes = [a.crash or a.message for a in result.attempts if a.outcome.is_bad]
    return crashes[-1] if crashes else ""


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _cell(text: str) -> str:
    return _html(text).replace("|", "\\|")


def _code(text: str) -> str:
    return f"<code>{_cell(text)}</code>"


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

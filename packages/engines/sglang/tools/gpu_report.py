"""Tables in Markdown of what `gpu_stage.py` has found: `python gpu_report.py OUT`."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

OUTCOMES = ("passed", "failed", "skipped", "xfailed")
STEPS = {
    "arrival_ms": "`start_req` to arrival, ms",
    "reset_ms": "reset and no-op script, ms",
    "decode_ms": "decode per yield, ms",
    "decode_checked_ms": "decode per yield with the invariants, ms",
}


def report(out: Path) -> Iterator[str]:
    """The lines of the report; what was not measured is not in it."""
    found = json.loads((out / "stage.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield f"{found['date']}: {'; '.join(found.get('gpus', []))}; {found['cores']} cores; {versions}"
    figures = found.get("figures", {})
    yield from steps({name: value for name, value in figures.items() if "decode_ms" in value})
    yield from free({name: value for name, value in figures.items() if "plain" in value})
    yield from kit({name: value for name, value in figures.items() if "kit" in value})
    for name, one in figures.items():
        if "tokens_per_step" in one:
            yield from speculation(name, one)
    for name, run in found.get("tests", {}).items():
        yield from tests(name, run, out / run["results"])


def steps(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Medians of what a script does, a column for each server."""
    if not figures:
        return
    yield from ("", f"| | {' | '.join(figures)} |", "|---|" + "---:|" * len(figures))
    for key, label in STEPS.items():
        cells = [f"{one[key]['median']:.3g}" if key in one else "" for one in figures.values()]
        yield f"| {label} | {' | '.join(cells)} |"


def free(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Throughput and occupancy without a script, with the hook and without it."""
    if not figures:
        return
    heads = ("no script", "pairs", "tokens/s without", "with", "ratio", "occupancy without", "with")
    yield from ("", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1))
    for name, one in figures.items():
        ratio, plain, hooked = one["throughput_ratio"], one["plain"], one["hooked"]
        cells = [
            name,
            str(one["pairs"]),
            f"{plain['tokens_per_s']:,.0f}",
            f"{hooked['tokens_per_s']:,.0f}",
            f"{ratio['median']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f})",
            percent(plain["occupancy"]),
            percent(hooked["occupancy"]),
        ]
        yield f"| {' | '.join(cells)} |"


def kit(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the occupancy kit has said of each server, a line for each time."""
    if not figures:
        return
    heads = ("occupancy kit", "server", "median", "least to peak", "scrapes", "tokens/s", "outcome")
    yield from ("", f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * 4 + "---|")
    for name, one in figures.items():
        for server, reports in one["kit"].items():
            for said in reports:
                figure = said["figures"]
                if not figure.get("samples"):
                    yield f"| {name} | {server} | | | 0 | | {said['outcome']} |"
                    continue
                cells = [
                    name,
                    server,
                    f"{figure['median']:.2f} %",
                    f"{figure['least']:.2f} to {figure['peak']:.2f} %",
                    str(figure["samples"]),
                    f"{figure['output_tokens'] / figure['elapsed_s']:,.0f}",
                    said["outcome"],
                ]
                yield f"| {' | '.join(cells)} |"


def speculation(name: str, one: Mapping[str, Any]) -> Iterator[str]:
    """Scenarios that passed on a server that speculates, and those that did not."""
    yield from (
        "",
        f"{name}: {one['passed']} scenarios passed, {len(one['failed'])} failed, "
        f"{len(one['broken'])} broke the server, {one['not_run']} not reached; "
        f"{one['tokens_per_step']:.2f} tokens a step; {one['differing']} of {one['answers']} answers "
        "differ from the reference engine's in float32",
        "",
    )
    for text in (*one["failed"], *one["broken"]):
        yield f"- {text.splitlines()[0]}"


def percent(value: float | None) -> str:
    """A gauge as text; empty where it was never seen."""
    return "" if value is None else f"{value:.1f} %"


def tests(name: str, run: Mapping[str, Any], results: Path) -> Iterator[str]:
    """How many of each file's tests ended how, why some were skipped, and what failed."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    rows = [json.loads(line) for line in lines]
    ended = "interrupted" if run["status"] is None else f"pytest ended with {run['status']}"
    yield from ("", f"{name}: {run['seconds']} s, {run['workers']} side by side, {ended}", "")
    yield f"| file | {' | '.join(OUTCOMES)} |"
    yield "|---|" + "---:|" * len(OUTCOMES)
    by_file: dict[str, Counter[str]] = {}
    for row in rows:
        file = row["test"].partition("::")[0].rpartition("/")[2]
        by_file.setdefault(file, Counter())[row["outcome"]] += 1
    for file, counts in sorted(by_file.items()):
        yield f"| `{file}` | {' | '.join(str(counts[one] or '') for one in OUTCOMES)} |"
    why = Counter(row["why"] for row in rows if row["outcome"] == "skipped")
    if why:
        yield from ("", "| skipped | because |", "|---:|---|")
        for reason, count in why.most_common():
            yield f"| {count} | {reason} |"
    for row in rows:
        if row["outcome"] == "failed":
            yield f"- failed: `{row['test']}`"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder that the stage wrote to")
    given = parser.parse_args(arguments)
    if not (given.out / "stage.json").is_file():
        print(f"gpu_report: there is no stage.json in {given.out}", file=sys.stderr)
        return 2
    print("\n".join(report(given.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

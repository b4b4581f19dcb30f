"""`run`: one shard of one stage, as a scheduler's machine runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from scripted_registry.ci.run import ShardOutcome, ShardPlan

_INTERRUPTED = 130
_PYTEST_NOTHING_LEFT = 5


def run(
    stage: Annotated[str, typer.Option("--stage", metavar="S", help="The stage, by its name.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- ARGUMENTS",
            help="More arguments for the stage's command, such as -- -k word.",
        ),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option("--runner", metavar="R", help="Which, of a stage that is on several."),
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", metavar="I/N", help="Part I of N, counted from 1.")
    ] = "1/1",
    nightly: Annotated[
        bool, typer.Option("--nightly", help="The tests that are left out by day, and only those.")
    ] = False,
    retries: Annotated[
        int,
        typer.Option("--retries", metavar="N", help="Run failed tests up to N times more."),
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="Write JUnit XML, report log and summary there."
        ),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Remember how long the tests took, in ci/timings.json.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Collect, and list this shard's tests; run none.")
    ] = False,
) -> None:
    """Run one shard of a stage of `ci/manifest.json`, from the root of the repository.

    The stage's tests are divided so that the longest shard is as short as can be: longest first, by
    the median of what each took in earlier runs, with one start of an engine for all tests of the same
    configuration. Every machine that collects the same tests comes to the same division.

    A test that is selected and has no result is a failure. Nothing is retried unless `--retries` says
    so; a test that passed only then is told as flaky, with how often it failed. In GitHub Actions the
    summary goes to the job's page.

    Example: `scripted ci run --stage single --shard 1/2 --output ci-results`

    Exit status: 0; 1 when a test failed or the command did; 2 when nothing could be run; 130 after
    Ctrl-C, with the results until then.
    """
    import os
    import tempfile

    from scripted_registry.ci.cli.outputs import SUMMARY_VARIABLE, prepare_folder, publish
    from scripted_registry.ci.manifest import MANIFEST_PATH, TIMINGS_PATH, read_manifest
    from scripted_registry.ci.run import ShardPlan, check_plan, run_shard
    from scripted_registry.ci.shard_name import parse_shard
    from scripted_registry.errors import ConfigError

    root = Path.cwd()
    plan = ShardPlan(
        root=root,
        stage=read_manifest(root / MANIFEST_PATH).stage(stage, runner=runner),
        nightly=nightly,
        shard=parse_shard(shard),
        retries=retries,
        timings=root / TIMINGS_PATH,
        arguments=tuple(arguments or ()),
    )
    check_plan(plan)
    if record and plan.shard.of > 1:
        raise ConfigError(
            f"--record with shard {plan.shard} would change how the other shards are divided",
            hint="run all shards with --output DIR, then `scripted ci record --stage "
            f"{plan.stage.name} DIR/*.jsonl`",
        )
    if output is not None and not dry_run:
        prepare_folder(output)
    with tempfile.TemporaryDirectory(prefix="scripted-ci-") as temporary:
        scratch = Path(temporary)
        if dry_run:
            raise typer.Exit(_list_tests(plan, scratch))
        outcome = run_shard(plan, scratch=scratch)
        publish(
            outcome,
            scratch=scratch,
            folder=output,
            summary=os.environ.get(SUMMARY_VARIABLE),
        )
        if record:
            _record(outcome)
    if outcome.interrupted:
        raise typer.Exit(_INTERRUPTED)
    raise typer.Exit(1 if outcome.failed else 0)


def _record(outcome: ShardOutcome) -> None:
    from scripted_registry.ci.record import record_results

    plan = outcome.plan
    count = record_results(plan.timings, suite=plan.stage.suite, results=outcome.results)
    typer.echo(f"{plan.timings.name}: {count} tests")


def _list_tests(plan: ShardPlan, scratch: Path) -> int:
    from scripted_registry.ci.durations import duration
    from scripted_registry.ci.run import collect_shard

    reply, status = collect_shard(plan, scratch=scratch)
    if not plan.stage.takes_tests:
        typer.echo(f"{plan.stage.command}\n(a command without tests: nothing to collect)")
        return 0
    if reply is None or status not in (0, _PYTEST_NOTHING_LEFT):
        typer.echo((scratch / "collected.txt").read_text(errors="replace"), err=True)
        typer.echo(f"error: the command ended with {status}: {plan.stage.command}", err=True)
        return 1
    for test in reply.selected:
        typer.echo(f"{test.est_s:8.2f} s  {test.nodeid}")
    shards = ", ".join(f"{number}: {s:.1f} s" for number, s in enumerate(reply.shard_est_s, 1))
    typer.echo(
        f"shard {plan.shard}: {len(reply.selected)} of {reply.collected} tests, expected "
        f"{duration(reply.est_s)}\nshards: {shards}; no division is shorter than "
        f"{reply.lower_bound_s:.1f} s; collection {reply.digest}"
    )
    return 0 if reply.collected else 1

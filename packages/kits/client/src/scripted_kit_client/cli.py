"""`scripted kit`: the installed kits, and one of them against a running server."""

from __future__ import annotations

import json
import os
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from scripted_core.errors import ConfigError
from scripted_registry import KitSpec, get_plugin_manager

from scripted_kit_client.target import DEFAULT_TIMEOUT_S, Api

if TYPE_CHECKING:
    from scripted_kit_client.kit import Kit
    from scripted_kit_client.report import KitReport

KEY_VARIABLE = "SCRIPTED_KIT_API_KEY"
ALL = "all"


class KitExit(IntEnum):
    """Exit status of `scripted kit run`."""

    PASSED = 0
    """Every check passed or was skipped for a missing capability."""
    FAILED = 1
    """A check failed."""
    BROKEN = 2
    """Nothing can be said: a usage mistake, or a server that is not there, hangs or died."""


kit_app = typer.Typer(
    no_args_is_help=True,
    help="Ready-made checks against any running server, by its URL alone.",
    rich_markup_mode="markdown",
)


@kit_app.command("list")
def list_kits(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
) -> None:
    """List installed kits with their options.

    Example: `scripted kit list`
    """
    from scripted_kit_client.kit import Kit
    from scripted_kit_client.options import described

    specs = get_plugin_manager().kits().values()
    if as_json:
        typer.echo(
            json.dumps(
                [
                    {
                        "name": spec.name,
                        "summary": spec.summary,
                        "distribution": spec.distribution,
                        "options": [
                            {
                                "name": one.name,
                                "type": one.kind,
                                "default": one.default,
                                "help": one.text,
                            }
                            for one in (
                                described(spec.run.options) if isinstance(spec.run, Kit) else ()
                            )
                        ],
                    }
                    for spec in specs
                ],
                indent=2,
            )
        )
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not specs:
        console.print("no kits are installed; pip install 'scripted-core[kits]'")
    for spec in specs:
        table = Table(title=f"{spec.name}: {spec.summary}", title_justify="left")
        for column in ("option", "type", "default", "what it is for"):
            table.add_column(column, overflow="fold")
        for one in described(spec.run.options) if isinstance(spec.run, Kit) else ():
            table.add_row(one.name, one.kind, one.default, one.text)
        console.print(table)
        console.print(f"  from {spec.distribution}", style="dim")


@kit_app.command("run")
def run_kits(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A kit (`scripted kit list`), or `all` of them."),
    ],
    url: Annotated[
        str,
        typer.Option(
            "--url",  # left to itself, typer 0.27 names a required option after its metavar
            metavar="URL",
            help="The server, with the path of a proxy in front of it if there is one.",
        ),
    ],
    api_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help=f"Sent as a bearer token. Default: ${KEY_VARIABLE}."),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME:VALUE", help="A further header of each request. Repeatable."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long a request may take.")
    ] = DEFAULT_TIMEOUT_S,
    api: Annotated[
        Api, typer.Option(help="`/generate`, or OpenAI's routes; auto takes the former if it can.")
    ] = Api.AUTO,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model for OpenAI's routes; default: the first listed."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", "-o", metavar="NAME=VALUE", help="An option of the kit. Repeatable."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of tables.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what was measured over time as an SVG picture."),
    ] = None,
) -> None:
    """Run a kit against a server that is already running.

    Examples:

    `scripted kit run occupancy --url http://127.0.0.1:30000 --plot occupancy.svg`

    `scripted kit run hellaswag --url https://host/engines/a --api-key $KEY -o data=hellaswag_val.jsonl`

    `scripted kit run all --url http://127.0.0.1:30000 --json`

    With `$GITHUB_STEP_SUMMARY` set, the report is also appended to that file as Markdown.

    Exit status: 0 when every check passed or was skipped for a missing capability, 1 when one failed,
    2 when nothing can be said (a usage mistake, a server that is not there, hangs or died).
    """
    from scripted_kit_client.output.as_json import reports_as_json
    from scripted_kit_client.output.files import look_at_output
    from scripted_kit_client.output.markdown import look_at_step_summary, write_step_summary
    from scripted_kit_client.progress import bar
    from scripted_kit_client.target import Target

    kits = _chosen(name)
    options = _pairs(option or [], "=", "--option", "threshold=90")
    target = Target(
        url=url,
        api_key=api_key or os.environ.get(KEY_VARIABLE) or None,
        headers=_pairs(header or [], ":", "--header", "X-Team:serving"),
        timeout_s=timeout,
        api=api,
        model=model,
    )
    if plot is not None:
        look_at_output(plot, what="the plot")
    look_at_step_summary()
    reports: list[KitReport] = []
    for kit in kits:
        with bar() as progress:
            reports.append(kit(target, options=_of(kit, options, among=kits), progress=progress))
        if not as_json:
            _print(reports[-1])
        if reports[-1].error is not None:
            break  # the next one would only say the same
    if as_json:
        typer.echo(reports_as_json(reports))
    if plot is not None:
        _write_plot(reports, plot)
    write_step_summary(reports)
    raise typer.Exit(exit_status(reports))


def exit_status(reports: list[KitReport]) -> KitExit:
    """The worst of these."""
    from scripted_kit_client.report import Outcome

    outcomes = {report.outcome for report in reports}
    if Outcome.BROKEN in outcomes:
        return KitExit.BROKEN
    return KitExit.FAILED if Outcome.FAILED in outcomes else KitExit.PASSED


def _print(report: KitReport) -> None:
    from scripted_kit_client.output.terminal import print_report

    print_report(report)
    if report.error is not None:
        typer.secho(f"error: {report.error.message}", fg="red", err=True)
        if report.error.hint is not None:
            typer.secho(f"hint: {report.error.hint}", fg="yellow", err=True)


def _chosen(name: str) -> list[Kit[object]]:
    from scripted_kit_client.kit import Kit

    known = get_plugin_manager().kits()
    if name == ALL:
        specs = list(known.values())
    elif name in known:
        specs = [known[name]]
    else:
        raise ConfigError(
            f"no kit is called {name!r}",
            hint=f"installed: {', '.join(known) or 'none'}; pip install 'scripted-core[kits]'",
        )
    return [_kit(spec) for spec in specs if name != ALL or isinstance(spec.run, Kit)]


def _kit(spec: KitSpec) -> Kit[object]:
    from scripted_kit_client.kit import Kit

    if not isinstance(spec.run, Kit):
        raise ConfigError(
            f"kit {spec.name!r} of {spec.distribution} is none that this command can run",
            hint="its run has to be a scripted_kit_client.Kit",
        )
    return spec.run


def _of(
    kit: Kit[object], options: dict[str, str], *, among: list[Kit[object]]
) -> dict[str, object]:
    """The options that are this kit's; with `all`, `KIT.NAME` is for that one alone."""
    if len(among) == 1:
        return dict(options)
    names = {one.name for one in among}
    found: dict[str, object] = {}
    for key, value in options.items():
        owner, dot, name = key.partition(".")
        if not dot or owner not in names:
            raise ConfigError(
                f"--option {key!r} does not say whose it is",
                hint=f"with `all`, write KIT.{key}=VALUE",
            )
        if owner == kit.name:
            found[name] = value
    return found


def _pairs(given: list[str], sign: str, option: str, example: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, found_sign, value = text.partition(sign)
        if not found_sign or not name.strip():
            raise ConfigError(
                f"{option} {text!r} is not of the form NAME{sign}VALUE",
                hint=f"for example {option} {example}",
            )
        found[name.strip()] = value.strip()
    return found


def _write_plot(reports: list[KitReport], file: Path) -> None:
    from scripted_kit_client.output.svg import write_svg

    series = [one for report in reports for one in report.series]
    if not series:
        typer.secho("nothing was measured over time, so there is no plot", fg="yellow", err=True)
        return
    write_svg(series[0], file)

"""`scripted conformance`: call by call, what an engine does, skips or gets wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scripted_core.errors import ConfigError

if TYPE_CHECKING:
    from scripted_core.conformance.check import Check
    from scripted_core.conformance.verdict import Conformance


def conformance(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME[:MODE]", help="Engine to judge; `scripted list` shows them."),
    ] = None,
    engine_arg: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An argument of the engine (SGLang's names); wins over the suite's. Repeatable.",
        ),
    ] = None,
    bare: Annotated[
        bool,
        typer.Option("--bare", help="Start the engine with the given arguments and no others."),
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", help="Only rows whose call or check has this text. Repeatable."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of request ids and of the engine.")] = 0,
    stall_timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Deadline of one iteration; 30 when left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write Markdown instead of a table.")
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Put the table into a Markdown document, at its markers."
        ),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare with the table of a document: exit status 1 when it says otherwise, "
            "0 when it says the same, wrong rows included.",
        ),
    ] = None,
) -> None:
    """Try out what each call means on an engine, and say what it does, skips or gets wrong.

    Each row runs a script of its own; the invariants are checked after every iteration. `skips`
    names the capability that the engine does not have, `wrong` says what was seen instead. The suite's
    engine has chunks of 64 tokens and a pool of 4,096 (`chunked_prefill_size`, `max_total_tokens`,
    `max_running_requests`, `context_length`, `model_path`).

    Examples:

    `scripted conformance --backend reference`

    `scripted conformance --backend reference:server --only abort`

    `scripted conformance --backend mine --engine-arg page_size=16 --markdown`

    `scripted conformance --backend mine --check docs/conformance.md`

    Exit status: 0 when nothing is wrong, 1 when something is, 2 when nothing could be run, 130 after
    Ctrl-C.
    """
    from scripted_core.cli.conformance_table import Watcher, print_table
    from scripted_core.conformance import DEFAULT_ENGINE_KWARGS, run_conformance
    from scripted_core.conformance.document import as_markdown, check_document, write_document
    from scripted_core.engine_args import parse_engine_args
    from scripted_core.sessions.base import make_config

    if as_json and markdown:
        raise ConfigError("--json and --markdown exclude each other", hint="leave one of them out")
    if only and (write is not None or check is not None):
        raise ConfigError("a document has every row", hint="leave --only out")
    checks = _chosen(only or [])
    given = parse_engine_args(engine_arg or [])
    kwargs: dict[str, Any] = given if bare else {**DEFAULT_ENGINE_KWARGS, **given}
    config = make_config(backend, kwargs, seed=seed)
    for document in (write, check):
        if document is not None and not document.is_file():
            raise ConfigError(f"there is no file {document}", hint="give a Markdown document")
    with Watcher(total=len(checks), engine=config.engine) as watcher:
        result = run_conformance(
            config, checks=checks, stall_timeout_s=stall_timeout, on_row=watcher.row
        )
    if as_json:
        typer.echo(_as_json(result))
    elif markdown:
        typer.echo(as_markdown(result))
    else:
        print_table(result)
    if write is not None:
        write_document(write, result)
    if check is not None:
        _compare(check_document(check, result), check, result.backend)
    elif result.wrong:
        raise typer.Exit(1)


def _chosen(only: list[str]) -> list[Check]:
    from scripted_core.conformance import CHECKS

    chosen = [one for one in CHECKS if not only or any(text in _names(one) for text in only)]
    missing = [text for text in only if not any(text in _names(one) for one in CHECKS)]
    if missing:
        raise ConfigError(
            f"--only {missing[0]!r}: no row has that in its call or check",
            hint=f"calls are {', '.join(dict.fromkeys(one.call for one in CHECKS))}",
        )
    return chosen


def _names(one: Check) -> str:
    return f"{one.call} {one.name}"


def _compare(other: list[str], document: Path, backend: str) -> None:
    if not other:
        typer.echo(f"{document} says the same of {backend}", err=True)
        return
    for line in other:
        typer.echo(f"not in {document}: {line}", err=True)
    typer.secho(
        f"hint: scripted conformance --backend {backend} --write {document}", fg="yellow", err=True
    )
    raise typer.Exit(1)


def _as_json(result: Conformance) -> str:
    import msgspec

    document = {
        "backend": result.backend,
        "capabilities": result.capabilities,
        "rows": result.rows,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()

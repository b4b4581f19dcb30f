"""The kit `hellaswag`: the share of rows whose right ending the served model finds likeliest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from scripted_core.errors import ConfigError
from scripted_kit_client.client import ServerClient
from scripted_kit_client.kit import Kit, KitRun
from scripted_kit_client.options import option
from scripted_kit_client.report import Table
from scripted_kit_client.together import together

from scripted_kit_hellaswag.accuracy import Accuracy
from scripted_kit_hellaswag.lm_eval_backend import accuracy_by_lm_eval
from scripted_kit_hellaswag.rows import BadRow, Row, read_rows
from scripted_kit_hellaswag.scoring import Normalize, Scored, few_shots, score_row

TRAINED_MODEL: Final = "tiny"
TRAINED_FLOOR: Final = 0.97
"""The trained checkpoint gets 100.0 % of its 200 rows right; this is 3 points less."""
DEFAULT_FLOOR: Final = 0.60
_NAMED_ROWS: Final = 5


class Scorer(StrEnum):
    """Who measures."""

    BUILT_IN = "built-in"
    LM_EVAL = "lm-eval"


@dataclass(frozen=True, kw_only=True)
class HellaswagOptions:
    """What is measured, and what is enough."""

    data: Path | None = option(
        None, "JSONL with ctx (or ctx_a, ctx_b), endings, label; the model `tiny` brings its own"
    )
    floor: float | None = option(
        None,
        f"share that has to be right; default {DEFAULT_FLOOR}, or {TRAINED_FLOOR} for `tiny`",
        at_least=0,
        at_most=1,
    )
    limit: int | None = option(None, "rows to ask, from the first on; default all", at_least=1)
    n_shot: int = option(
        0, "solved rows before each question; they are not asked themselves", at_least=0
    )
    normalize: Normalize = option(Normalize.TOKEN, "what the score of an ending is divided by")
    concurrency: int = option(4, "rows that are asked at a time", at_least=1)
    bad_rows_most: int = option(0, "so many lines of the file may be no rows", at_least=0)
    scorer: Scorer = option(
        Scorer.BUILT_IN,
        "lm-eval (an extra) fetches the public data set itself when there is no data",
    )


async def check_accuracy(run: KitRun, options: HellaswagOptions) -> None:
    """Ask all rows, then judge the share that is right."""
    if options.scorer is Scorer.LM_EVAL:
        await _check_by_lm_eval(run, options)
        return
    file, floor = _data_and_floor(run.client, options)
    rows, bad = read_rows(file)
    shots, asked = rows[: options.n_shot], rows[options.n_shot :]
    asked = asked if options.limit is None else asked[: options.limit]
    if not asked:
        raise ConfigError(
            f"{file} has {len(rows)} rows, of which n_shot={options.n_shot} leaves none to ask",
            hint="use fewer shots, or more rows",
        )
    _judge_rows(run, file, bad, most=options.bad_rows_most)
    scored = await _ask_all(run, asked, shots=few_shots(shots), options=options)
    _tell_and_judge(run, scored, floor=floor, chance=_chance(asked))


HELLASWAG: Final = Kit(
    name="hellaswag",
    summary="accuracy of the served model, by the likelihood of endings",
    options=HellaswagOptions,
    look=check_accuracy,
)


def _data_and_floor(client: ServerClient, options: HellaswagOptions) -> tuple[Path, float]:
    is_trained = client.facts.model.rstrip("/").rpartition("/")[2] == TRAINED_MODEL
    file = options.data
    floor = options.floor
    if floor is None:
        floor = TRAINED_FLOOR if is_trained and file is None else DEFAULT_FLOOR
    if file is not None:
        return file, floor
    if not is_trained:
        raise ConfigError(
            f"there is no data for the model {client.facts.model!r}",
            hint="-o data=FILE takes HellaSwag's JSONL; -o scorer=lm-eval fetches it itself",
        )
    try:
        from scripted_models import dataset
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the data of the model `tiny` is not installed",
            hint="pip install 'scripted-kit-hellaswag[tiny]'",
        ) from error
    return dataset("hellaswag"), floor


async def _ask_all(
    run: KitRun, rows: Sequence[Row], *, shots: str, options: HellaswagOptions
) -> list[Scored]:
    run.progress.begin("hellaswag", len(rows))
    free = asyncio.Semaphore(options.concurrency)
    done = 0

    async def ask(row: Row) -> Scored:
        nonlocal done
        async with free:
            scored = await score_row(run.client, row, shots=shots, normalize=options.normalize)
        done += 1
        run.progress.done(done)
        return scored

    return await together(ask(row) for row in rows)


def _judge_rows(run: KitRun, file: Path, bad: Sequence[BadRow], *, most: int) -> None:
    named = "; ".join(f"line {one.line}: {one.reason}" for one in bad[:_NAMED_ROWS])
    more = f" and {len(bad) - _NAMED_ROWS} more" if len(bad) > _NAMED_ROWS else ""
    seen = f"{len(bad)} lines of {file.name} are no rows"
    run.judge("rows", len(bad) <= most, f"{seen}: {named}{more}" if bad else seen)


def _chance(rows: Sequence[Row]) -> float:
    return sum(1 / len(row.endings) for row in rows) / len(rows)


def _tell_and_judge(run: KitRun, scored: Sequence[Scored], *, floor: float, chance: float) -> None:
    accuracy = Accuracy(right=sum(one.is_right for one in scored), count=len(scored))
    low, high = accuracy.interval
    run.findings.tables.append(
        Table(
            title="hellaswag",
            columns=("figure", "value"),
            rows=(
                ("rows", str(accuracy.count)),
                ("right", str(accuracy.right)),
                ("accuracy", f"{100 * accuracy.share:.1f} %"),
                ("95 % interval", f"{100 * low:.1f} to {100 * high:.1f} %"),
                ("floor", f"{100 * floor:.1f} %"),
                ("chance", f"{100 * chance:.1f} %"),
            ),
        )
    )
    run.findings.figures.update(
        accuracy=accuracy.share,
        interval_low=low,
        interval_high=high,
        rows=accuracy.count,
        floor=floor,
        chance=chance,
    )
    wrong = [one for one in scored if not one.is_right][:_NAMED_ROWS]
    first = "; ".join(
        f"line {one.row.line} chose ending {one.chosen}, right is {one.row.label}" for one in wrong
    )
    message = f"{accuracy}, floor {100 * floor:.1f} %"
    is_right = accuracy.share >= floor
    run.judge("accuracy", is_right, message if is_right else f"{message}; {first}")


async def _check_by_lm_eval(run: KitRun, options: HellaswagOptions) -> None:
    """The same task, as lm-eval has it: of the public data set, or of the rows that were given."""
    rows: list[Row] | None = None
    floor = DEFAULT_FLOOR if options.floor is None else options.floor
    if options.data is not None:
        rows, bad = read_rows(options.data)
        _judge_rows(run, options.data, bad, most=options.bad_rows_most)
    run.progress.begin("lm-eval: hellaswag", None)
    share = await accuracy_by_lm_eval(
        run.client,
        rows=rows,
        n_shot=options.n_shot,
        limit=options.limit,
        concurrency=options.concurrency,
        progress=run.progress,
    )
    run.findings.figures.update(accuracy=share, floor=floor)
    message = f"acc_norm {100 * share:.1f} % by lm-eval, floor {100 * floor:.1f} %"
    run.judge("accuracy", share >= floor, message)

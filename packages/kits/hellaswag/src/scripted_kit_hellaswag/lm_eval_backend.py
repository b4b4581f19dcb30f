"""The same measurement by EleutherAI's lm-eval (an extra): its tasks and its scores, our requests.

lm-eval is given a model that asks through the kit's own client. So it needs no tokenizer, takes
whichever API the server has, and a server that dies ends it with that error.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_kit_client.client import ServerClient
from scripted_kit_client.errors import CheckFailed
from scripted_kit_client.progress import Progress
from scripted_kit_client.together import together

from scripted_kit_hellaswag.rows import Row
from scripted_kit_hellaswag.scoring import ending_logprobs

PUBLIC_TASK: Final = "hellaswag"
LOCAL_TASK: Final = "hellaswag_rows"


async def accuracy_by_lm_eval(
    client: ServerClient,
    *,
    rows: Sequence[Row] | None,
    n_shot: int,
    limit: int | None,
    concurrency: int,
    progress: Progress,
) -> float:
    """`acc_norm` of lm-eval's task `hellaswag`, or of the same questions about `rows`.

    Without rows lm-eval fetches the public data set. Raises `ConfigError` when the extra is not
    installed or the data set cannot be had, and every error of a request.
    """
    lm_eval = _imported()
    model = _model(client, concurrency=concurrency, progress=progress)
    with tempfile.TemporaryDirectory(prefix="scripted-lm-eval-") as folder:
        task = PUBLIC_TASK if rows is None else _task(rows, Path(folder))
        try:
            found = await asyncio.to_thread(
                lm_eval.simple_evaluate,
                model=model,
                tasks=[task],
                num_fewshot=n_shot,
                limit=limit,
                bootstrap_iters=0,
                log_samples=False,
            )
        except (
            OSError,
            ValueError,
        ) as error:  # of `datasets`, when there is no network or no such set
            raise ConfigError(
                f"lm-eval could not run its task: {error}",
                hint="-o data=FILE gives it rows of yours" if rows is None else None,
            ) from error
    name = PUBLIC_TASK if rows is None else LOCAL_TASK
    try:
        return float(found["results"][name]["acc_norm,none"])
    except (KeyError, TypeError) as error:
        raise CheckFailed(f"lm-eval told no acc_norm of {name}: {found!r:.200}") from error


def _imported() -> Any:
    try:
        return importlib.import_module("lm_eval")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"lm-eval is not installed ({error})",
            hint="pip install 'scripted-kit-hellaswag[lm-eval]'",
        ) from error


def _task(rows: Sequence[Row], folder: Path) -> dict[str, Any]:
    """lm-eval's task `hellaswag` about these rows, which are cleaned already."""
    file = folder / "rows.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for row in rows:
            fields = {"query": row.context, "choices": list(row.endings), "gold": row.label}
            lines.write(json.dumps(fields) + "\n")
    return {
        "task": LOCAL_TASK,
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"validation": str(file)},
            "cache_dir": str(folder / "cache"),
        },
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "fewshot_split": "validation",
        "doc_to_text": "{{query}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "choices",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in ("acc", "acc_norm")
        ],
    }


def _model(client: ServerClient, *, concurrency: int, progress: Progress) -> Any:
    """An `lm_eval.api.model.LM` over this client, for the running event loop; called from a thread."""
    base: Any = importlib.import_module("lm_eval.api.model").LM
    loop = asyncio.get_running_loop()

    async def ask_all(asked: list[tuple[str, str]]) -> dict[tuple[str, str], float]:
        by_context: dict[str, list[str]] = {}
        for context, ending in dict.fromkeys(asked):
            by_context.setdefault(context, []).append(ending)
        progress.begin("lm-eval", len(by_context))
        free = asyncio.Semaphore(concurrency)
        done = 0

        async def ask(context: str, endings: list[str]) -> list[float]:
            nonlocal done
            async with free:
                values = await ending_logprobs(client, context, endings, where=repr(context[-40:]))
            done += 1
            progress.done(done)
            return [sum(one) for one in values]

        sums = await together(ask(context, endings) for context, endings in by_context.items())
        return {
            (context, ending): value
            for (context, endings), values in zip(by_context.items(), sums, strict=True)
            for ending, value in zip(endings, values, strict=True)
        }

    class OverClient(base):  # type: ignore[misc]
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            asked = [(str(one.args[0]), str(one.args[1])) for one in requests]
            found = asyncio.run_coroutine_threadsafe(ask_all(asked), loop).result()
            # Whether greedy decoding gives the ending is used by no metric of a multiple choice.
            return [(found[one], False) for one in asked]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise CapabilityMissing("this kit asks lm-eval for multiple choices alone")

        def generate_until(self, requests: list[Any]) -> list[str]:
            raise CapabilityMissing("this kit asks lm-eval for multiple choices alone")

    return OverClient()

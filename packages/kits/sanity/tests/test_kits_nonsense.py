"""Whatever a server answers, a kit ends with a report that can be shown, or an error of ours."""

from __future__ import annotations

import copy
import importlib.util
import json
import random
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from scripted_core.errors import ScriptedError
from scripted_kit_client import Api, KitReport, Target
from scripted_kit_client.output.as_json import reports_as_json
from scripted_kit_client.output.markdown import as_markdown
from scripted_kit_client.output.svg import as_svg
from scripted_kit_hellaswag import HELLASWAG, HellaswagOptions
from scripted_kit_occupancy import OCCUPANCY, OccupancyOptions
from scripted_kit_sanity import SANITY, SanityOptions
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=12, stage="reference", runner_config="cpu")

_STUB = Path(__file__).parents[2] / "client" / "tests" / "kit_stub.py"
_ROUNDS = 12
_JUNK: list[Any] = [
    *(None, True, 0, -1, 1.5, float("nan"), 10**30, "", "x", "\ud800"),
    *([], {}, [1], [[]], [None], {"a": 1}, [{}], [{"id": None}]),
]
_META = {
    "prompt_tokens": 3,
    "completion_tokens": 1,
    "finish_reason": {"type": "length"},
    "input_token_logprobs": [[None, 1, None], [-1.0, 2, None], [-1, 3, None]],
    "output_token_logprobs": [[-0.5, 7, None]],
    "cached_tokens": 0,
    "spec_accept_length": 2.0,
}
_CHOICE = {
    "text": "abc",
    "finish_reason": "length",
    "logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, -1.0]},
}
_SOUND: dict[str, Any] = {
    "/server_info": {
        "version": "1",
        "engine": "scripted-reference",
        "context_length": 64,
        "internal_states": [{"avg_spec_accept_length": 2.0}],
    },
    "/v1/models": {"data": [{"id": "m"}]},
    "/model_info": {"model_path": "m"},
    "/generate": {"text": " a b c d e", "output_ids": [7], "meta_info": _META},
    "/v1/completions": {
        "choices": [_CHOICE],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
    },
    "/v1/chat/completions": {"choices": [{"message": {"content": "x"}}], "usage": {}},
}
_METRICS = [
    *["sglang:fwd_occupancy 50\n", 'sglang:fwd_occupancy{dp_rank="1"} NaN\n'] * 4,
    *("", "{}", "\x00", "# TYPE", "<html>", "sglang:fwd_occupancy x", "sglang:fwd_occupancy{ 3"),
    *("sglang:fwd_occupancy +Inf\n", "sglang:fwd_occupancy -3\n", "sglang:fwd_occupancy 1e400\n"),
]


class _Nonsense:
    """A server whose answers are right for the most part, and else anything at all."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        rng = self._rng
        asked = json.loads(await request.text() or "{}")
        body = copy.deepcopy(_SOUND.get(request.path, {"a": 1}))
        if isinstance(asked.get("text"), list):
            body = [body] * len(asked["text"])
        share = rng.choice([0, 0, 0.02, 0.1, 0.3])
        text = json.dumps(self._spoiled(body, share))
        if request.path == "/metrics":
            text = rng.choice(_METRICS)
        if asked.get("stream"):
            events = [json.dumps(self._spoiled(body, share)) for _ in range(rng.randrange(3))]
            text = "".join(f"data: {one}\n\n" for one in events) + rng.choice(
                ["data: [DONE]\n\n", ""]
            )
        if rng.random() < 0.02:
            text = rng.choice(["", "[" * 50_000, "nul", text[: len(text) // 2]])
        status = rng.choice([200] * 30 + [204, 302, 400, 401, 404, 500, 503])
        return web.Response(status=status, text=text)

    def _spoiled(self, value: Any, share: float) -> Any:
        if self._rng.random() < share:
            return self._rng.choice(_JUNK)
        if isinstance(value, dict):
            return {
                name: self._spoiled(one, share)
                for name, one in value.items()
                if self._rng.random() >= share / 2
            }
        return [self._spoiled(one, share) for one in value] if isinstance(value, list) else value


def _no_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def _show(report: KitReport) -> None:
    json.loads(reports_as_json([report]), parse_constant=_no_json)
    as_markdown(report)
    for series in report.series:
        picture = as_svg(series)
        assert "nan" not in picture
        assert "inf" not in picture


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_answer_is_a_traceback(seed, tmp_path):
    spec = importlib.util.spec_from_file_location("kit_stub_of_nonsense", _STUB)
    assert spec is not None
    assert spec.loader is not None
    stub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stub)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"ctx": "a man", "endings": ["runs", "flies"], "label": 1}\n')
    few = SanityOptions(
        questions="world", pause_s=0.01, pause_requests=2, concurrency=2, long_prompt_words=10
    )
    kits = [
        (SANITY, few),
        (HELLASWAG, HellaswagOptions(data=rows, floor=0)),
        (
            OCCUPANCY,
            OccupancyOptions(scrape_interval_s=0.01, min_samples=1, max_new_tokens=10),
        ),
    ]
    outcomes: Counter[str] = Counter()
    with stub.served({"* /{path:.*}": _Nonsense(seed).answer}) as url, warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(_ROUNDS):
            for kit, options in kits:
                for api in (Api.AUTO, Api.OPENAI):
                    try:
                        report = kit(Target(url=url, timeout_s=5, api=api), options=options)
                    except ScriptedError as error:
                        outcomes[error.code] += 1
                        continue
                    _show(report)
                    outcomes[report.outcome] += 1
    assert outcomes["failed"] > _ROUNDS  # it did say nonsense, and kits did look
    assert outcomes["broken"] > 0

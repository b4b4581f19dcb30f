"""Rows, scores and the interval, without a server; and servers that answer what a test says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web
from scripted_core.errors import ConfigError
from scripted_kit_client import KitReport, Outcome, Target
from scripted_kit_hellaswag import HELLASWAG, HellaswagOptions, Normalize
from scripted_kit_hellaswag.accuracy import Accuracy
from scripted_kit_hellaswag.rows import parse_rows, read_rows
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=3, stage="unit", runner_config="cpu")

_STUB = Path(__file__).parents[2] / "client" / "tests" / "kit_stub.py"
_GOOD = {"ctx": "a man", "endings": ["runs", "flies", "melts", "sings"], "label": 2}


@pytest.fixture(scope="module")
def stub() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kit_stub_of_hellaswag", _STUB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_public_rows_are_read_as_others_read_them():
    public = {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he",
        "ctx": "A man is sitting on a roof. he",
        "endings": ["is [title] here.", "b [step] c"],
        "label": "1",
    }
    ((row,), bad) = parse_rows([json.dumps(public).encode(), b""])
    assert bad == []
    assert row.context == "Roof shingle removal: A man is sitting on a roof. He"
    assert row.endings == ("is. here.", "b c")
    assert row.label == 1


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"endings": ["one"]}, "two endings"),
        ({"endings": ["a", " "]}, "empty"),
        ({"endings": ["a", 3]}, "no text"),
        ({"endings": ["a", "a"]}, "the same"),
        ({"endings": ["a b", "a  b"]}, "the same"),
        ({"endings": ["a", "[header]"]}, "empty without its marks"),
        ({"endings": ["a", "\ud83d"]}, "half of a character"),
        ({"label": 4}, "label 4 is of no ending"),
        ({"label": None}, "label is None"),
        ({"label": True}, "label is True"),
        ({"label": 1.0}, "label is 1.0"),
        ({"label": "-1"}, "label is '-1'"),
        ({"ctx": ""}, "no context"),
        ({"ctx": "[header]"}, "no context"),
    ],
)
def test_a_bad_row_is_named_with_its_line(changed, reason):
    lines = [json.dumps(one).encode() for one in (_GOOD, {**_GOOD, **changed})] + [b"{", b"[]"]
    rows, bad = parse_rows(lines)
    assert len(rows) == 1
    assert [one.line for one in bad] == [2, 3, 4]
    assert reason in bad[0].reason


def test_one_line_that_is_no_text_costs_no_other(tmp_path):
    file = tmp_path / "rows.jsonl"
    good = json.dumps({**_GOOD, "ctx": "a\u2028b\x85 \U0001f600"}, ensure_ascii=False).encode()
    file.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\xff\xfe\n" + b"[" * 100_000 + b"\n" + good)
    rows, bad = read_rows(file)
    assert [row.line for row in rows] == [1, 4]
    assert rows[0].context == "a\u2028b\x85 \U0001f600"
    assert [(one.line, one.reason[:12]) for one in bad] == [
        (2, "it is no UTF"),
        (3, "it is nested"),
    ]


def test_a_file_without_a_row_cannot_be_used(tmp_path):
    file = tmp_path / "rows.jsonl"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rows(file)
    file.write_text('{"label": 1}\n')
    with pytest.raises(ConfigError, match="line 1: it has no two endings"):
        read_rows(file)


def test_the_interval_is_wilsons():
    # As in the table of Brown, Cai and DasGupta (2001) for x = 0 and by scipy's binomtest for the rest.
    assert Accuracy(right=0, count=10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Accuracy(right=8, count=10).interval == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert Accuracy(right=200, count=200).interval == pytest.approx((0.9812, 1.0), abs=1e-4)
    assert "80.0 % (8 of 10; 95 % interval 49.0 to 94.3 %)" in str(Accuracy(right=8, count=10))


def _engine(stub: ModuleType, liked: str):
    """A server that finds words with `liked` in them likely, a token a word."""

    def scored(text: str, start: int) -> dict[str, object]:
        words = text.split()
        found = [(-0.1 if liked in word else -5.0, i, None) for i, word in enumerate(words)]
        meta = {
            "prompt_tokens": len(words),
            "completion_tokens": 1,
            "finish_reason": {"type": "length"},
            "input_token_logprobs": found[start:],
        }
        return {"text": " x", "output_ids": [1], "meta_info": meta}

    async def generate(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        start = body.get("logprob_start_len", 0)
        text = body["text"]
        if isinstance(text, str):
            return web.json_response(scored(text, start))
        return web.json_response([scored(one, start) for one in text])

    return stub.served(
        {
            "GET /server_info": stub.replies(200, {"version": "1"}),
            "GET /v1/models": stub.replies(200, {"data": [{"id": "m"}]}),
            "POST /generate": generate,
        }
    )


def _run(url: str, file: Path, **options: object) -> KitReport:
    return HELLASWAG(Target(url=url), options=HellaswagOptions(data=file, **options))


def _write(file: Path, *rows: object) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_the_likeliest_ending_is_chosen_and_the_share_is_judged(stub, tmp_path):
    file = _write(tmp_path / "rows.jsonl", _GOOD, {**_GOOD, "label": 0})
    with _engine(stub, "melts") as url:
        report = _run(url, file, floor=0.5)
        low = _run(url, file, floor=0.6)
    assert report.outcome is Outcome.PASSED
    assert report.figures["accuracy"] == 0.5
    assert report.figures["chance"] == 0.25
    (failed,) = low.with_outcome(Outcome.FAILED)
    assert "line 2 chose ending 2, right is 0" in failed.message
    assert "50.0 % (1 of 2" in failed.message


def test_length_counts_as_it_is_asked_for(stub, tmp_path):
    row = {"ctx": "it", "endings": ["is", "good good bad good"], "label": 1}
    file = _write(tmp_path / "rows.jsonl", row)
    with _engine(stub, "good") as url:
        found = {
            one: _run(url, file, normalize=one, floor=0).figures["accuracy"] for one in Normalize
        }
    # One word at -5 against four that sum up to -5.3, over 1 and 4 tokens, 2 and 18 bytes.
    assert found == {Normalize.TOKEN: 1.0, Normalize.BYTE: 1.0, Normalize.NONE: 0.0}


def test_bad_rows_fail_a_check_of_their_own(stub, tmp_path):
    file = _write(tmp_path / "rows.jsonl", _GOOD, {"label": 1})
    with _engine(stub, "melts") as url:
        report = _run(url, file, floor=0)
        allowed = _run(url, file, floor=0, bad_rows_most=1)
    (failed,) = report.with_outcome(Outcome.FAILED)
    assert failed.name == "rows"
    assert "1 lines of rows.jsonl are no rows: line 2: it has no two endings" in failed.message
    assert allowed.outcome is Outcome.PASSED


def test_log_probabilities_that_are_too_few_are_named(stub, tmp_path):
    file = _write(tmp_path / "rows.jsonl", _GOOD)

    async def forgetful(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        meta = {
            "prompt_tokens": 2 if isinstance(body["text"], str) else 4,
            "completion_tokens": 1,
            "finish_reason": {"type": "length"},
            "input_token_logprobs": [[-1.0, 1, None]],
        }
        one = {"text": "", "meta_info": meta}
        return web.json_response(one if isinstance(body["text"], str) else [one] * 4)

    routes = {
        "GET /server_info": stub.replies(200, {"version": "1"}),
        "GET /v1/models": stub.replies(200, {"data": [{"id": "m"}]}),
        "POST /generate": forgetful,
    }
    with stub.served(routes) as url:
        report = _run(url, file)
    (failed,) = report.with_outcome(Outcome.FAILED)
    assert "line 1: an ending of 2 tokens came back with 0 log probabilities" in failed.message


def test_what_cannot_be_asked_is_a_usage_error(stub, tmp_path):
    file = _write(tmp_path / "rows.jsonl", _GOOD)
    with _engine(stub, "melts") as url:
        with pytest.raises(ConfigError, match="leaves none to ask"):
            _run(url, file, n_shot=1)
        for bad in ({"floor": 60}, {"limit": 0}, {"n_shot": -1}, {"concurrency": 0}):
            with pytest.raises(ConfigError, match=f"option {next(iter(bad))}="):
                _run(url, file, **bad)
        with pytest.raises(ConfigError, match="no data for the model 'm'"):
            HELLASWAG(Target(url=url))

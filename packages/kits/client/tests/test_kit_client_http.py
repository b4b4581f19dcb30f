"""What goes wrong between a kit and a server is said as what it is."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from aiohttp import web
from scripted_core.errors import ConfigError, EngineDied
from scripted_kit_client import (
    Api,
    CheckFailed,
    ConnectionBroken,
    RequestRefused,
    RequestTimedOut,
    ServerClient,
    ServerUnreachable,
    Target,
    open_client,
)
from scripted_registry.ci import register_cpu_ci

sys.path.insert(0, str(Path(__file__).parent))
from kit_stub import replies, served

register_cpu_ci(est_time=5, stage="unit", runner_config="cpu")

_T = TypeVar("_T")
_MODELS = replies(200, {"data": [{"id": "m"}]})
_INFO = replies(200, {"version": "1", "context_length": 64})
_FOUND = {"GET /v1/models": _MODELS, "GET /server_info": _INFO, "GET /health": replies(200, "")}


def talk(target: Target, say: Callable[[ServerClient], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        async with open_client(target) as client:
            return await say(client)

    return asyncio.run(run())


def test_nobody_there_is_said_with_the_url():
    with served({}) as url:
        pass
    with pytest.raises(ServerUnreachable, match=url) as caught:
        talk(Target(url=url), lambda client: client.server_info())
    assert "scripted serve" in str(caught.value.hint)


def test_a_web_server_that_is_no_engine_is_said_to_be_none():
    with served({}) as url, pytest.raises(ServerUnreachable, match="no LLM server"):
        talk(Target(url=url + "/wrong"), lambda client: client.server_info())


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:3", "ftp://a", "http://", "http://a/?b=c", "http://a#b", "http://a:99999"),
        *("http://[::1", "http://a:b", "http://a b/", "http://.:1", f"http://{'a' * 300}"),
        *("http://a/\n", "http://a:0", "http://\x00"),
    ],
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(ConfigError, match=r"URL|path"):
        Target(url=url)


def test_a_password_in_a_url_is_refused_and_not_said_again():
    with pytest.raises(ConfigError, match="in every report") as caught:
        Target(url="http://me:sesame@host:1")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        {"api_key": "sesame\n"},
        {"api_key": "sesame\x00"},
        {"headers": {"X": "sesame\r\nY: 1"}},
        {"headers": {"X y": "1"}},
        {"headers": {"": "1"}},
        {"headers": {"\xc9": "1"}},
    ],
)
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(given):
    with pytest.raises(ConfigError, match="header") as caught:
        Target(url="http://a", **given)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf])
def test_a_timeout_has_to_be_one(timeout_s):
    with pytest.raises(ConfigError, match="timeout"):
        Target(url="http://a", timeout_s=timeout_s)


def test_an_api_has_to_be_one():
    with pytest.raises(ConfigError, match="no API 'grpc'"):
        Target(url="http://a", api="grpc")


def test_a_wrong_key_is_refused_with_a_hint():
    with served({"GET /server_info": replies(401, "who are you?")}) as url:
        with pytest.raises(RequestRefused, match=r"401.*who are you") as caught:
            talk(Target(url=url), lambda client: client.server_info())
    assert "--api-key" in str(caught.value.hint)
    assert caught.value.status == 401


def test_key_and_headers_go_with_every_request():
    seen: list[tuple[str | None, str | None]] = []

    async def look(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), request.headers.get("X-Team")))
        return web.json_response({"data": [{"id": "m"}], "version": "1"})

    with served({"GET /proxy/server_info": look, "GET /proxy/v1/models": look}) as url:
        target = Target(url=f"{url}/proxy/", api_key="k", headers={"X-Team": "a"})
        talk(target, lambda client: client.server_info())
    assert set(seen) == {("Bearer k", "a")}


def test_a_request_that_hangs_ends_after_its_own_time():
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    with served({**_FOUND, "POST /generate": hang}) as url:
        with pytest.raises(RequestTimedOut, match=r"/generate was not answered within 0\.2 s"):
            talk(
                Target(url=url),
                lambda client: client.generate("a", max_new_tokens=1, timeout_s=0.2),
            )


async def _hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def test_a_broken_connection_of_a_server_that_lives_is_no_death():
    with served({**_FOUND, "POST /generate": _hang_up}) as url:
        with pytest.raises(ConnectionBroken, match="/health still answers"):
            talk(Target(url=url), lambda client: client.generate("a", max_new_tokens=1))


def test_a_server_that_breaks_off_and_has_no_health_any_more_has_died():
    routes = {**_FOUND, "POST /generate": _hang_up, "GET /health": replies(503, "")}
    with served(routes) as url:
        with pytest.raises(EngineDied, match=r"died: POST /generate broke off.*status 503"):
            talk(Target(url=url), lambda client: client.generate("a", max_new_tokens=1))


def test_a_proxy_with_nobody_behind_it_is_a_death():
    gone = replies(502, "bad gateway")
    with served({**_FOUND, "POST /generate": gone, "GET /health": gone}) as url:
        with pytest.raises(EngineDied, match="502"):
            talk(Target(url=url), lambda client: client.generate("a", max_new_tokens=1))


_META = {"finish_reason": {"type": "stop"}, "prompt_tokens": 1, "completion_tokens": 1}


def _with_meta(**fields: object) -> dict[str, object]:
    return {"text": "a", "meta_info": {**_META, **fields}}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("no json", "no JSON: no json"),
        ([1], "where an object belongs"),
        ({"text": "a"}, "meta_info"),
        ({"text": 3, "meta_info": {"finish_reason": {"type": "stop"}}}, "text=3"),
        (
            {"text": "a", "meta_info": {"finish_reason": {"type": "stop"}, "prompt_tokens": "x"}},
            "prompt_tokens='x'",
        ),
        ({"text": "a", "meta_info": {"finish_reason": None}}, "finish_reason"),
        ({"text": "a", "output_ids": [1, "2"], "meta_info": _META}, "output_ids=[1, '2']"),
        (_with_meta(prompt_tokens=True), "prompt_tokens=True"),
        (_with_meta(cached_tokens="3"), "cached_tokens='3'"),
        (_with_meta(spec_accept_length="2"), "spec_accept_length='2'"),
        (_with_meta(output_token_logprobs="x"), "output_token_logprobs='x'"),
        (_with_meta(output_token_logprobs=[[-1, 5], [-1]]), "output_token_logprobs[1]"),
        (_with_meta(input_token_logprobs=[["low", 5]]), "has 'low' where a log probability"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_reply_out_of_shape_names_the_field(body, said):
    with served({**_FOUND, "POST /generate": replies(200, body)}) as url:
        with pytest.raises(CheckFailed) as caught:
            talk(Target(url=url), lambda client: client.generate("a", max_new_tokens=1))
    assert said in str(caught.value)


async def _all_events(client: ServerClient) -> list[str]:
    return [event.text async for event in client.stream("a", max_new_tokens=1)]


@pytest.mark.parametrize(
    ("stream", "error", "said"),
    [
        ('data: {"text": "a"}\n\n', CheckFailed, "after 1 events without"),
        ('data: {"text": \n\n', CheckFailed, "event 0 .* no JSON"),
        ("data: 3\n\n", CheckFailed, "event 0"),
        ('data: {"error": {"message": "too long"}}\n\n', RequestRefused, "too long"),
    ],
)
def test_a_stream_that_breaks_its_form_is_named(stream, error, said):
    with served({**_FOUND, "POST /generate": replies(200, stream)}) as url:
        with pytest.raises(error, match=said):
            talk(Target(url=url), _all_events)


def test_an_event_as_long_as_a_whole_book_is_read_and_a_longer_one_is_named():
    def stream(length: int) -> str:
        event = {"text": "a" * length, "meta_info": {"finish_reason": {"type": "stop"}}}
        return f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"

    with served({**_FOUND, "POST /generate": replies(200, stream(1 << 20))}) as url:
        assert [len(text) for text in talk(Target(url=url), _all_events)] == [1 << 20]
    with served({**_FOUND, "POST /generate": replies(200, stream(9 << 20))}) as url:
        with pytest.raises(CheckFailed, match=r"event 0 .* is longer than 8 MiB"):
            talk(Target(url=url), _all_events)


@pytest.mark.parametrize("data", [[{}], [1], "m", {"id": "m"}])
def test_a_list_of_models_that_is_none_is_named(data):
    with served({**_FOUND, "GET /v1/models": replies(200, {"data": data})}) as url:
        with pytest.raises(CheckFailed, match="/v1/models has data="):
            talk(Target(url=url), lambda client: client.server_info())


def test_a_server_with_openai_routes_alone_is_spoken_to_over_them():
    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        assert body["model"] == "m"
        logprobs = {"tokens": ["a", "b", "c"], "token_logprobs": [None, -1.0, -2.0]}
        choice = {"text": "abc", "finish_reason": "length", "logprobs": logprobs}
        usage = {"prompt_tokens": 2, "completion_tokens": 1}
        return web.json_response({"choices": [choice], "usage": usage})

    routes = {
        "GET /v1/models": _MODELS,
        "GET /version": replies(200, {"version": "0.32"}),
        "POST /v1/completions": complete,
    }
    with served(routes) as url:

        async def say(client: ServerClient):
            assert client.facts.engine == "vllm"
            assert client.facts.api is Api.OPENAI
            assert await client.accept_length() is None
            return await client.generate("ab", max_new_tokens=1, logprob_start_len=1)

        found = talk(Target(url=url), say)
        with pytest.raises(ConfigError, match="no /generate"):
            talk(Target(url=url, api=Api.GENERATE), say)
    assert found.prompt_logprobs == (("b", -1.0),)
    assert found.output_logprobs == (("c", -2.0),)
    assert found.token_ids is None

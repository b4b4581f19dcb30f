"""The HTTP API of the reference server, against outputs that are known in closed form."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from pathlib import Path

import aiohttp
import pytest
from scripted_reference import expected_output
from scripted_reference.models.tokenizer import ByteTokenizer
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=9, stage="reference", runner_config="cpu")

_GREEDY = {"temperature": 0, "ignore_eos": True}
_PROMPT = list(range(100, 190))


def _sampling(n, **more):
    return {**_GREEDY, "max_new_tokens": n, **more}


def _wait_until(condition, *, timeout_s=5.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)  # another process's doing: nothing to wait on


# -- generate


def test_a_prompt_gets_the_output_that_is_right_and_says_how(server):
    reply = server.generate(rid="one", input_ids=_PROMPT, sampling_params=_sampling(5))
    expected = expected_output(_PROMPT, 5)
    assert reply["output_ids"] == expected
    assert reply["text"] == ByteTokenizer().decode(expected)
    meta = reply["meta_info"]
    assert meta.pop("e2e_latency") > 0
    assert meta == {
        "id": "one",
        "finish_reason": {"type": "length", "length": 5},
        "prompt_tokens": 90,
        "completion_tokens": 5,
        "cached_tokens": 0,
        "weight_version": "default",
    }
    again = server.generate(rid="one", input_ids=_PROMPT, sampling_params=_sampling(5))
    assert again["output_ids"] == expected
    assert again["meta_info"]["cached_tokens"] == 89, "all but the last token of the prompt"


def test_text_is_tokenized_and_a_batch_keeps_its_order(server):
    texts = ["first", "second", "third prompt"]
    reply = server.generate(
        text=texts, rid="batch", sampling_params=[_sampling(n) for n in (2, 3, 4)]
    )
    tokenizer = ByteTokenizer()
    assert [one["meta_info"]["id"] for one in reply] == ["batch_0", "batch_1", "batch_2"]
    assert [one["output_ids"] for one in reply] == [
        expected_output(tokenizer.encode(text), n) for text, n in zip(texts, (2, 3, 4), strict=True)
    ]


def test_a_stream_repeats_all_output_so_far_and_ends_with_the_reason(server):
    events = server.events("/generate", {"input_ids": _PROMPT, "sampling_params": _sampling(40)})
    outputs = [event["output_ids"] for event in events]
    expected = expected_output(_PROMPT, 40)
    assert len(outputs) > 1, "that is no stream"
    assert all(output == expected[: len(output)] for output in outputs)
    assert sorted(map(len, outputs)) == [len(output) for output in outputs]
    assert [event["meta_info"]["finish_reason"] for event in events[:-1]] == [None] * (
        len(events) - 1
    )
    assert events[-1]["output_ids"] == expected
    assert events[-1]["meta_info"]["finish_reason"] == {"type": "length", "length": 40}


def test_a_streamed_batch_says_which_prompt_an_event_is_of(server):
    prompts = [[1, 2, 3], [9, 8, 7, 6]]
    events = server.events("/generate", {"input_ids": prompts, "sampling_params": _sampling(6)})
    last = {event["index"]: event["output_ids"] for event in events}
    assert last == {i: expected_output(prompt, 6) for i, prompt in enumerate(prompts)}


def test_stop_tokens_and_stop_strings_end_a_request_where_they_come(server):
    expected = expected_output(_PROMPT, 6)
    sampling = {"temperature": 0, "max_new_tokens": 6, "stop_token_ids": [expected[2]]}
    reply = server.generate(input_ids=_PROMPT, sampling_params=sampling)
    assert reply["output_ids"] == expected[:3]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": expected[2]}

    stop = f"<{expected[2]}>"
    for keep in (False, True):
        reply = server.generate(
            input_ids=_PROMPT,
            rid="stops",
            sampling_params=_sampling(200, stop=["no such text", stop], no_stop_trim=keep),
        )
        assert reply["output_ids"] == expected[:3]
        assert reply["text"] == f"<{expected[0]}><{expected[1]}>" + (stop if keep else "")
        assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
        # The scheduler stops working on it, too; until then its id is taken.
        _wait_until(lambda: server.state()["num_running"] == 0)


def test_sampling_is_reproducible_by_its_seed(server):
    def sampled(seed):
        sampling = {"max_new_tokens": 8, "temperature": 1.0, "sampling_seed": seed}
        return server.generate(input_ids=_PROMPT, sampling_params=sampling)["output_ids"]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


# -- what is wrong is said


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'"' + b"\\ud800" + b'"', "no JSON|does not fit"),
        (b"[" * 100_000, "no JSON|does not fit"),
        (b"[]", "Expected `object`"),
        (b"{}", "either text or input_ids"),
        (b'{"text": "a", "input_ids": [1]}', "either text or input_ids"),
        (b'{"text": 3}', r"\$\.text"),
        (b'{"text": []}', "empty list"),
        (b'{"input_ids": []}', "prompt is empty"),
        (b'{"input_ids": [[]]}', "prompt is empty"),
        (b'{"input_ids": [1, [2]]}', "mixes"),
        (b'{"input_ids": [1.5]}', r"\$\.input_ids"),
        (b'{"input_ids": [-1]}', "token id -1"),
        (b'{"input_ids": [99999999999999999999]}', "does not fit"),
        (b'{"input_ids": [32000]}', "ids are 0 to 31999"),
        (b'{"text": "a", "stream": "yes"}', r"\$\.stream"),
        (b'{"text": "a", "priority": 1e30}', r"\$\.priority"),
        (b'{"text": "a", "rid": ""}', "id is empty"),
        (b'{"text": ["a", "b"], "rid": ["x", "x"]}', "given twice"),
        (b'{"text": ["a", "b"], "rid": ["x"]}', "1 entries for 2 prompts"),
        (b'{"text": "a", "data_parallel_rank": 1}', "dp_rank is 0 to 0"),
        (b'{"text": "a", "lora_path": "none"}', "LoRA adapter 'none'"),
        (b'{"text": "a", "return_logprob": true}', "no probabilities"),
        (b'{"text": "a", "image_data": "x.png"}', "image_data"),
        (b'{"text": "a", "sampling_params": {"temperatur": 1}}', "temperatur"),
        (b'{"text": "a", "sampling_params": {"temperature": -1}}', "temperature must be"),
        (b'{"text": "a", "sampling_params": {"max_new_tokens": 0}}', "at least 1"),
        (b'{"text": "a", "sampling_params": {"top_p": 0.5}}', "top_p"),
        (b'{"text": "a", "sampling_params": {"regex": "a+"}}', "regex"),
    ],
)
def test_a_body_that_cannot_be_served_is_a_400_that_says_why(server, body, message):
    status, reply = server.call("/generate", data=body)
    assert status == 400
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reply["error"]["message"])
    assert server.state()["num_waiting"] == server.state()["num_running"] == 0


def test_a_prompt_that_is_too_long_is_refused_whole_and_nothing_of_its_batch_runs(server):
    before = server.state()["forwards_total"]
    status, reply = server.call("/generate", {"input_ids": [[1, 2, 3], [7] * 5000]})
    assert status == 400
    assert "longer than the model's context" in reply["error"]["message"]
    assert server.state()["forwards_total"] == before


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/pause_generation", {"mode": "sideways"}, 400),
        ("/abort_request", {}, 400),
        ("/v1/completions", {"prompt": ["a", 1]}, 400),
        ("/v1/completions", {"prompt": []}, 400),
        ("/v1/completions", {"prompt": "a", "n": 2}, 400),
        ("/v1/completions", {"prompt": "a", "logprobs": 1000}, 400),
        ("/generate", None, 405),
        ("/no_such_path", None, 404),
        ("/metrics", None, 404),
        ("/v1/models/other", None, 404),
    ],
)
def test_errors_elsewhere_have_the_same_form(server, path, body, status):
    got, reply = server.call(path, body)
    assert got == status
    assert reply["error"]["code"] == status
    assert reply["error"]["message"]


# -- control


def test_a_pause_lets_new_requests_queue_and_a_continue_serves_them(server):
    assert server.call("/pause_generation", {"mode": "in_place"})[0] == 200
    replies: list[object] = []
    client = threading.Thread(
        target=lambda: replies.append(
            server.generate(input_ids=_PROMPT, sampling_params=_sampling(3))
        )
    )
    client.start()
    _wait_until(lambda: server.state()["num_waiting"] == 1)
    assert server.state()["paused"] == "in_place"
    assert server.call("/flush_cache", data=b"")[0] == 400, "a request is waiting"
    assert not replies
    assert server.call("/continue_generation", {})[0] == 200
    client.join(timeout=5)
    assert [reply["output_ids"] for reply in replies] == [expected_output(_PROMPT, 3)]
    assert server.call("/flush_cache", data=b"") == (200, "Cache flushed.\n")
    state = server.state()
    assert (state["paused"], state["tokens_free"]) == (None, state["tokens_total"])


def test_an_abort_ends_exactly_its_request(server):
    assert server.call("/pause_generation", {"mode": "retract"})[0] == 200
    replies: dict[str, object] = {}

    def client(rid):
        replies[rid] = server.generate(rid=rid, text=rid, sampling_params=_sampling(2))

    clients = [threading.Thread(target=client, args=(rid,)) for rid in ("ab", "abc")]
    for thread in clients:
        thread.start()
    _wait_until(lambda: server.state()["num_waiting"] == 2)
    status, reply = server.call("/generate", {"rid": "ab", "text": "again"})
    assert (status, "in use" in reply["error"]["message"]) == (400, True)
    assert server.call("/abort_request", {"rid": "ab"})[0] == 200
    clients[0].join(timeout=5)
    assert replies["ab"]["meta_info"]["finish_reason"]["type"] == "abort"
    assert "abc" not in replies
    assert server.call("/pause_generation", {})[0] == 200, "the default mode aborts all"
    clients[1].join(timeout=5)
    assert replies["abc"]["meta_info"]["finish_reason"]["type"] == "abort"
    assert server.call("/continue_generation", data=b"")[0] == 200


def test_a_client_that_goes_away_in_mid_stream_ends_its_request(server):
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(
        {"rid": "gone", "input_ids": _PROMPT, "stream": True, "sampling_params": _sampling(1900)}
    ).encode()
    assert server.call("/pause_generation", {"mode": "in_place"})[0] == 200
    with socket.create_connection((host, int(port))) as raw:
        head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        _wait_until(lambda: server.state()["num_waiting"] == 1)
    assert server.call("/continue_generation", {})[0] == 200
    _wait_until(lambda: server.state()["num_waiting"] + server.state()["num_running"] == 0)
    assert server.state()["generated_tokens_total"] < 1900
    assert server.generate(rid="gone", text="a", sampling_params=_sampling(1))["output_ids"]


def test_200_clients_at_once_each_get_their_own_output(server):
    prompts = [[i % 50 + 1, i + 1000, *range(200, 200 + i % 70)] for i in range(200)]

    async def one(session, i):
        body = {"input_ids": prompts[i], "sampling_params": _sampling(4), "stream": i % 2 == 0}
        async with session.post(server.url + "/generate", json=body) as response:
            assert response.status == 200
            text = (await response.text()).strip()
        if i % 2:
            return json.loads(text)["output_ids"]
        return json.loads(text.split("\n\n")[-2].removeprefix("data: "))["output_ids"]

    async def everybody():
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            return await asyncio.gather(*(one(session, i) for i in range(200)))

    assert asyncio.run(everybody()) == [expected_output(prompt, 4) for prompt in prompts]


# -- OpenAI and information


def test_completions_answer_as_openai_does(server):
    tokenizer = ByteTokenizer()
    texts = ["once", "upon"]
    status, reply = server.call(
        "/v1/completions", {"prompt": texts, "max_tokens": 3, "temperature": 0, "echo": True}
    )
    assert status == 200
    assert reply["object"] == "text_completion"
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    for text, choice in zip(texts, reply["choices"], strict=True):
        output = expected_output(tokenizer.encode(text), 3, ignore_eos=False)
        assert choice["text"] == text + tokenizer.decode(output)
        assert choice["finish_reason"] == "length"
    assert reply["usage"]["prompt_tokens"] == 8
    assert reply["usage"]["total_tokens"] == 14


def test_streamed_completions_hold_only_what_is_new(server):
    body = {"prompt": _PROMPT, "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    events = server.events("/v1/completions", {**body, "stream_options": {"include_usage": True}})
    *parts, last = events
    text = "".join(part["choices"][0]["text"] for part in parts)
    assert len(parts) > 1
    assert text == ByteTokenizer().decode(expected_output(_PROMPT, 30))
    assert parts[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 30


def test_what_the_server_says_of_itself(server):
    assert server.call("/health")[0] == 200
    assert server.call("/health_generate")[0] == 200
    for prefix in ("/", "/get_"):
        model = server.call(f"{prefix}model_info")[1]
        assert (model["model_path"], model["is_generation"]) == ("hash", True)
        info = server.call(f"{prefix}server_info")[1]
        assert (info["chunked_prefill_size"], info["max_total_num_tokens"]) == (64, 2048)
    (card,) = server.call("/v1/models")[1]["data"]
    assert (card["id"], card["max_model_len"]) == ("hash", 4096)
    assert server.call("/v1/models/hash")[1] == card


def test_an_idle_server_uses_no_processor_time(server):
    def cpu_ticks():
        found = 0
        for pid in server.pids.values():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found += int(fields[11]) + int(fields[12])
        return found

    before = cpu_ticks()
    time.sleep(0.5)  # what is measured is that time passes and nothing happens
    assert cpu_ticks() - before <= 1

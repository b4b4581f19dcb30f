"""A pair of servers as processes: the fixture, the router, deaths, two pairs at once, mistakes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from scripted_backend_pd import Prompt, pair_kwargs, responses_of, single_device_kwargs_of
from scripted_backend_pd import server_scripts as scripts
from scripted_backend_pd.case import PdTestCase
from scripted_backend_pd.pair_client import SHORT_PROMPT, PdPair
from scripted_core import InProcessSession, ScriptedHttpServer
from scripted_core.errors import ConfigError, EngineDied
from scripted_core.free_ports import free_ports
from scripted_core.sessions.processes import still_running
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="pd", runner_config="cpu")

_KWARGS = pair_kwargs()
_ON_SERVERS = pytest.mark.parametrize("scripted_backend", ["reference:server"], indirect=True)


def _ask(url, method, path, body=None, *, timeout=30.0):
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _generate(url, prompt, **sampling):
    body = {
        "input_ids": prompt.input_ids(32000),
        "sampling_params": {"max_new_tokens": 8, "ignore_eos": True, "temperature": 0.0} | sampling,
    }
    status, text = _ask(url, "POST", "/generate", body)
    return status, json.loads(text)


@_ON_SERVERS
@pytest.mark.scripted(**_KWARGS)
def test_short_requests_go_through_the_router(pd_pair):
    same = pd_pair.send_parallel_short_requests(4, max_new_tokens=8)
    assert len({json.dumps(result["output_ids"]) for result in same}) == 1
    assert same[0]["meta_info"]["completion_tokens"] == 8
    others = pd_pair.send_parallel_short_requests(4, max_new_tokens=8, distinct_prompts=True)
    assert len({json.dumps(result["output_ids"]) for result in others}) == 4
    refused = PdPair(lb_url="http://127.0.0.1:9", prefill_url="", decode_url="")
    (result,) = refused.send_parallel_short_requests(1, assert_all_success=False)
    assert result["status_code"] == 0
    with pytest.raises(AssertionError, match="request 0 of 1"):
        refused.send_parallel_short_requests(1)


@_ON_SERVERS
@pytest.mark.scripted(**_KWARGS)
def test_the_router_speaks_http(pd_pair):
    url = pd_pair.lb_url
    assert _ask(url, "GET", "/health")[0] == 200
    assert _ask(url, "GET", "/health_generate")[0] == 200
    workers = json.loads(_ask(url, "GET", "/workers")[1])["workers"]
    assert [one["worker_type"] for one in workers] == ["prefill", "decode"]
    assert [one["url"] for one in workers] == [pd_pair.prefill_url, pd_pair.decode_url]
    info = json.loads(_ask(url, "GET", "/server_info")[1])
    assert info["prefill"][0]["disaggregation_mode"] == "prefill"
    assert info["decode"][0]["disaggregation_mode"] == "decode"

    status, several = _ask(
        url,
        "POST",
        "/generate",
        {"text": [SHORT_PROMPT, "another one"], "sampling_params": {"max_new_tokens": 4}},
    )
    assert status == 200
    assert len(json.loads(several)) == 2
    status, text = _ask(
        url, "POST", "/v1/completions", {"prompt": SHORT_PROMPT, "max_tokens": 4, "temperature": 0}
    )
    assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 4)
    status, stream = _ask(
        url,
        "POST",
        "/generate",
        {"text": SHORT_PROMPT, "stream": True, "sampling_params": {"max_new_tokens": 4}},
    )
    events = [line for line in stream.split(b"\n\n") if line]
    assert (status, events[-1]) == (200, b"data: [DONE]")
    assert json.loads(events[-2][6:])["meta_info"]["completion_tokens"] == 4

    assert _ask(url, "POST", "/generate", {"input_ids": [1] * 5000})[0] == 400
    assert _ask(url, "POST", "/generate", [1])[0] == 400
    status, text = _ask(pd_pair.prefill_url, "POST", "/generate", {"input_ids": [1, 2]})
    assert status == 400
    assert b"send it to the router" in text


@_ON_SERVERS
@pytest.mark.scripted(**_KWARGS)
def test_an_abort_through_the_router_and_a_client_that_goes_leave_nothing(pd_pair):
    url, prompt = pd_pair.lb_url, Prompt(300, seed=3)
    answers = []
    body = {
        "rid": "long-one",
        "input_ids": prompt.input_ids(32000),
        "sampling_params": {"max_new_tokens": 700, "ignore_eos": True},
        "stream": True,
    }
    asking = threading.Thread(target=lambda: answers.append(_ask(url, "POST", "/generate", body)))
    asking.start()
    where = urlsplit(url)
    gone = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    gone.request("POST", "/generate", json.dumps({**body, "rid": "gone"}))
    gone.close()
    deadline = time.monotonic() + 30
    while asking.is_alive() and time.monotonic() < deadline:
        _ask(url, "POST", "/abort_request", {"rid": "long-one"})
        asking.join(0.05)
    assert not asking.is_alive()
    last = json.loads(answers[0][1].split(b"\n\n")[-3][6:])
    assert last["meta_info"]["finish_reason"]["type"] in ("abort", "length")
    for one in (pd_pair.prefill_url, pd_pair.decode_url):
        while True:
            state = json.loads(_ask(one, "GET", "/server_info")[1])["internal_states"][0]
            if state["tokens_free"] + state["tokens_evictable"] == state["tokens_total"]:
                break
            assert time.monotonic() < deadline, f"{one} holds memory for nobody: {state}"
            time.sleep(0.02)


class SeedsCase(PdTestCase):
    """As the seeds write it."""

    def test_p_side(self) -> None:
        results = self.send_parallel_short_requests(n=4, distinct_prompts=True)
        assert [result["status_code"] for result in results] == [200] * 4
        assert len({self.lb_url, self.prefill_url, self.decode_url}) == 3


@pytest.mark.parametrize("whom", ["prefill scheduler", "decode server", "router"])
def test_the_death_of_any_process_is_named_at_once_and_leaves_nothing(whom):
    with ScriptedHttpServer.start(backend="reference", **_KWARGS) as server:
        pids = server.pids
        said, after_s = scripts.death_of(server, whom)
        assert whom in said
        assert after_s < 1.0
        folder = Path(server.log_path).parent
    assert not folder.exists()
    assert still_running(pids) == {}


def _kills_after(t, pid, iterations):
    for _ in range(iterations):
        yield
    os.kill(pid, signal.SIGKILL)
    while True:
        yield


def test_the_iterations_before_a_death_are_counted():
    with ScriptedHttpServer.start(backend="reference", **_KWARGS) as server:
        victim = next(pid for pid, name in server.pids.items() if name == "prefill scheduler")
        with pytest.raises(EngineDied, match="prefill scheduler"):
            server.execute_script(_kills_after, args=(victim, 57), want_trace=True)
        assert server.last_steps == 57
        assert server.last_trace == ()


def test_two_pairs_at_once_do_not_mix_up():
    prompts = [Prompt(120, seed=1), Prompt(120, seed=2)]
    with (
        ScriptedHttpServer.start(backend="reference", **_KWARGS) as first,
        ScriptedHttpServer.start(backend="reference", **{**_KWARGS, "random_seed": 7}) as second,
    ):
        urls = [PdPair.of(one).lb_url for one in (first, second)]
        found = {}

        def ask(url, prompt):
            found[url, prompt] = _generate(url, prompt, max_new_tokens=16)[1]["output_ids"]

        threads = [threading.Thread(target=ask, args=(u, p)) for u in urls for p in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        seeds = ({}, {"random_seed": 7})
        for url, kwargs in zip(urls, seeds, strict=True):
            expected = responses_of(prompts, single_device_kwargs_of({**_KWARGS, **kwargs}))
            assert [found[url, p] for p in prompts] == [list(e.output_ids) for e in expected]


_CTRL_C = """
import sys
from scripted_backend_pd import pair_kwargs
from scripted_backend_pd import server_scripts as scripts
from scripted_core import InProcessSession, ScriptedHttpServer

if __name__ == "__main__":
    with ScriptedHttpServer.start(backend="reference", **pair_kwargs()) as server:
        print(*server.pids, server.log_path.parent, flush=True)
        server.execute_script(scripts.spins)
"""


def test_ctrl_c_leaves_nothing(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(_CTRL_C)
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    ) as starter:
        assert starter.stdout is not None
        *pids, folder = starter.stdout.readline().split()
        assert len(pids) == 5
        starter.send_signal(signal.SIGINT)
        starter.wait(timeout=30)
    assert not Path(folder).exists()
    assert still_running(map(int, pids)) == {}


def _started(*module, **engine_kwargs):
    given = json.dumps(engine_kwargs) if engine_kwargs else None
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(given or "")
    return process


def test_servers_started_by_hand_answer_and_outlive_their_partner():
    ports = free_ports("127.0.0.1", 4)
    urls = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    kwargs = {**single_device_kwargs_of(_KWARGS), "disaggregation_bootstrap_port": ports[3]}
    prompt = Prompt(200, seed=4)
    (expected,) = responses_of([prompt], single_device_kwargs_of(_KWARGS))
    server = ("scripted_reference.server", "--engine-kwargs-json", "-", "--port")
    started = [
        _started(*server, str(ports[0]), **kwargs, disaggregation_mode="prefill"),
        _started(*server, str(ports[1]), **kwargs, disaggregation_mode="decode"),
        _started(
            *("scripted_hook.pair.router", "--port", str(ports[2]), "--prefill", urls[0]),
            *("--decode", urls[1], "--bootstrap-port", str(ports[3])),
        ),
    ]
    try:
        deadline = time.monotonic() + 120
        while not _is_healthy(urls[2]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        status, answer = _generate(urls[2], prompt, max_new_tokens=16)
        assert (status, answer["output_ids"]) == (200, list(expected.output_ids))
        # The decode server alone: a room to which nobody comes, at a prefill server that goes away.
        found = []
        body = {"input_ids": [1, 2, 3], "bootstrap_room": 5, "bootstrap_port": ports[3]}
        asking = threading.Thread(
            target=lambda: found.append(_ask(urls[1], "POST", "/generate", body))
        )
        asking.start()
        while (
            not json.loads(_ask(urls[1], "GET", "/server_info")[1])["internal_states"][0][
                "tokens_free"
            ]
            < 2048
        ):
            assert time.monotonic() < deadline
        started[0].kill()
        asking.join(30)
        assert b"has gone" in found[0][1]
        assert _ask(urls[1], "GET", "/health")[0] == 200
        assert _ask(urls[2], "GET", "/health")[0] == 503
        assert _generate(urls[2], prompt)[0] == 503
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)


def _is_healthy(url):
    try:
        return _ask(url, "GET", "/health")[0] == 200
    except OSError:
        return False


def test_an_engine_that_is_no_pair_of_servers_is_told_apart():
    with (
        InProcessSession.start(backend="reference", **_KWARGS) as session,
        pytest.raises(ConfigError, match="not started as a pair of servers"),
    ):
        PdPair.of(session)


def test_what_a_single_server_cannot_be_is_said():
    done = subprocess.run(
        [sys.executable, "-m", "scripted_reference.server", "--engine-kwargs-json", "-"],
        input='{"disaggregation_mode": "pair"}',
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "is two servers and a router" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_pytest_loads_in_every_run_is_light():
    program = (
        "import sys, pytest; before = set(sys.modules); import scripted_backend_pd.pytest_plugin; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        check=True,
    )
    assert set(done.stdout.split()) == {"scripted_backend_pd"}

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest
from aiohttp import web
from scripted_core.errors import TransportError
from scripted_core.logs import capture_logs
from scripted_hook import BackgroundHttpPoster
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


def http_threads():
    return [thread for thread in threading.enumerate() if thread.name == "scripted-http"]


@pytest.fixture
def poster():
    one = BackgroundHttpPoster()
    yield one
    one.close()
    assert http_threads() == []


async def answer(value):
    return value


def test_the_thread_is_started_on_first_use(poster):
    assert http_threads() == []
    assert poster.submit_coro(answer(3)).result(5) == 3
    assert len(http_threads()) == 1
    assert poster.submit_coro(answer(4)).result(5) == 4
    assert len(http_threads()) == 1


def test_a_coroutine_runs_on_the_posters_thread(poster):
    async def where():
        return threading.current_thread().name

    assert poster.submit_coro(where()).result(5) == "scripted-http"


def test_an_exception_is_logged_and_kept_and_the_loop_goes_on(poster, capsys):
    async def broken():
        raise ValueError("in the background")

    with capture_logs() as logs:
        future = poster.submit_coro(broken())
        with pytest.raises(ValueError, match="in the background"):
            future.result(5)
        assert poster.submit_coro(answer(1)).result(5) == 1
    errors = [entry for entry in logs if entry["level"] == "error"]
    assert len(errors) == 1
    assert isinstance(errors[0]["exc_info"], ValueError)


def test_close_ends_the_thread_and_is_idempotent(poster):
    poster.submit_coro(answer(1)).result(5)
    poster.close()
    assert http_threads() == []
    poster.close()


def test_close_without_use_starts_nothing():
    BackgroundHttpPoster().close()
    assert http_threads() == []


def test_close_cancels_what_runs_without_logging_it(poster, capsys):
    begun = threading.Event()

    async def forever():
        begun.set()
        await asyncio.Event().wait()

    with capture_logs() as logs:
        future = poster.submit_coro(forever())
        assert begun.wait(5)
        poster.close()
        with pytest.raises(CancelledError):
            future.result(5)
    assert logs == []


def test_submit_after_close_is_refused_and_leaves_no_coroutine_behind(poster):
    poster.submit_coro(answer(1)).result(5)
    poster.close()
    coro = answer(2)
    with pytest.raises(TransportError, match="closed") as caught:
        poster.submit_coro(coro)
    assert caught.value.hint
    with pytest.raises(RuntimeError, match=r"reuse|closed|awaited"):
        coro.send(None)


def test_post_sends_json_and_gives_status_and_text(poster):
    async def handle(request):
        body = await request.json()
        return web.json_response({"got": body["n"]}, status=201)

    async def serve():
        app = web.Application()
        app.router.add_post("/echo", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    runner, port = poster.submit_coro(serve()).result(5)
    try:
        status, text = poster.post(f"http://127.0.0.1:{port}/echo", {"n": 5}).result(5)
        assert (status, text) == (201, '{"got": 5}')
    finally:
        poster.submit_coro(runner.cleanup()).result(5)


def test_many_threads_share_one_loop(poster):
    results = []

    def work(n):
        results.append(poster.submit_coro(answer(n)).result(5))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(8))
    assert len(http_threads()) == 1

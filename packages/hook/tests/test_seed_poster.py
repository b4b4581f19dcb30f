"""``BackgroundHttpPoster`` with a fake HTTP session: what it asks of one, and when."""

from __future__ import annotations

import asyncio
import socket
import threading

import aiohttp
import pytest
from scripted_core.logs import capture_logs
from scripted_hook import BackgroundHttpPoster
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")


class _FakeResponse:
    def __init__(self, status, body):
        self.status = status
        self._body = body

    async def text(self):
        return self._body


class _FakePostCM:
    """What ``session.post`` gives: an asynchronous context manager around a response."""

    def __init__(self, session, response):
        self._session = session
        self._response = response

    async def __aenter__(self):
        if isinstance(self._response, BaseException):
            raise self._response
        if self._response is None:
            await asyncio.Event().wait()
        return self._response

    async def __aexit__(self, *_):
        self._session.released += 1


class _FakeSession:
    made: list[_FakeSession]
    answers: list

    def __init__(self, **_):
        self.posts = []
        self.released = 0
        self.closed = 0
        self.thread = threading.current_thread().name
        self.made.append(self)

    def post(self, url, *, json):
        self.posts.append((url, json))
        return _FakePostCM(self, self.answers.pop(0))

    async def close(self):
        self.closed += 1


@pytest.fixture
def sessions(monkeypatch):
    """Every session that was made; answers are given in order."""
    monkeypatch.setattr(_FakeSession, "made", [], raising=False)
    monkeypatch.setattr(_FakeSession, "answers", [], raising=False)
    monkeypatch.setattr(aiohttp, "ClientSession", _FakeSession)
    return _FakeSession


@pytest.fixture
def poster():
    one = BackgroundHttpPoster()
    yield one
    one.close()


def test_one_session_is_made_on_the_loop_and_used_for_every_post(poster, sessions):
    sessions.answers[:] = [_FakeResponse(200, "a"), _FakeResponse(200, "b")]
    assert poster.post("http://engine/one", {"n": 1}).result(5) == (200, "a")
    assert poster.post("http://engine/two", {"n": 2}).result(5) == (200, "b")
    (session,) = sessions.made
    assert session.thread == "scripted-http"
    assert session.posts == [("http://engine/one", {"n": 1}), ("http://engine/two", {"n": 2})]
    assert session.released == 2


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_bad_status_is_an_answer_and_no_error(poster, sessions, status):
    sessions.answers[:] = [_FakeResponse(status, "why not")]
    with capture_logs() as logs:
        assert poster.post("http://engine/abort_request", {}).result(5) == (status, "why not")
    assert logs == []


def test_a_post_that_fails_is_logged_once_and_the_next_goes_through(poster, sessions, capsys):
    sessions.answers[:] = [aiohttp.ClientConnectionError("refused"), _FakeResponse(200, "up")]
    with capture_logs() as logs:
        with pytest.raises(aiohttp.ClientConnectionError, match="refused"):
            poster.post("http://engine/generate", {}).result(5)
        assert poster.post("http://engine/generate", {}).result(5) == (200, "up")
    assert [entry["level"] for entry in logs] == ["error"]


def test_a_slow_post_holds_up_no_other(poster, sessions):
    sessions.answers[:] = [None, _FakeResponse(200, "quick")]
    slow = poster.post("http://engine/slow", {})
    assert poster.post("http://engine/quick", {}).result(5) == (200, "quick")
    assert not slow.done()


def test_close_cancels_posts_and_closes_the_session_once(poster, sessions):
    sessions.answers[:] = [None]
    slow = poster.post("http://engine/slow", {})
    poster.submit_coro(asyncio.sleep(0)).result(5)
    poster.close()
    poster.close()
    assert slow.cancelled()
    (session,) = sessions.made
    assert session.closed == 1


def test_a_port_where_nobody_listens_is_an_error_in_the_future(poster, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and never listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/generate"
        with pytest.raises(aiohttp.ClientConnectorError):
            poster.post(url, {}).result(5)

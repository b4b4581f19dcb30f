"""``BackgroundHttpPoster``: HTTP from inside a scheduler process, without holding it up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import aiohttp
from scripted_core.errors import TransportError
from scripted_core.logs import get_logger

_log = get_logger("scripted.poster")
_T = TypeVar("_T")


class BackgroundHttpPoster:
    """An asyncio loop in a thread of its own, with one aiohttp session; started on first use.

    ``headers`` go with every request.
    """

    def __init__(self, *, headers: Mapping[str, str] | None = None) -> None:
        self._headers = dict(headers or {})
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def submit_coro(self, coro: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the loop. An exception in it is logged, and kept in the future.

        Raises ``TransportError`` after ``close()``.
        """
        with self._lock:
            if self._closed:
                coro.close()
                raise TransportError(
                    "the HTTP poster is closed", hint="the session has ended; start a new one"
                )
            if self._loop is None:
                self._start()
            assert self._loop is not None
            future = asyncio.run_coroutine_threadsafe(coro, self._loop)
        future.add_done_callback(_log_exception)
        return future

    def post(self, url: str, json: Any) -> Future[tuple[int, str]]:
        """POST a JSON body; the future holds HTTP status and response text."""
        return self.submit_coro(self._post(url, json))

    async def session(self) -> aiohttp.ClientSession:
        """The session, for coroutines that run on the loop; streams have no total timeout."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._session

    async def _post(self, url: str, json: Any) -> tuple[int, str]:
        session = await self.session()
        async with session.post(url, json=json) as response:
            return response.status, await response.text()

    def _start(self) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        self._thread = threading.Thread(
            target=self._run_loop, args=(loop,), name="scripted-http", daemon=True
        )
        self._thread.start()

    @staticmethod
    def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def close(self) -> None:
        """Cancel what runs, close the session and end the thread; may be called twice."""
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._wind_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        assert self._thread is not None
        self._thread.join()
        loop.close()

    async def _wind_up(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


def _log_exception(future: Future[Any]) -> None:
    try:
        error = future.exception()
    except CancelledError:
        return
    if error is not None:
        _log.error("a posted coroutine failed", exc_info=error)

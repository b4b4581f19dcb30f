"""The canaries of running servers, asked over HTTP, with the seeds' assertions."""

from __future__ import annotations

import http.client
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Final
from urllib.parse import urlencode, urlsplit

from scripted_core import ScriptedHttpServer, ScriptedTestCase
from scripted_core.errors import ConfigError
from scripted_core.kv_report import (
    KV_REPORT_PATH,
    KvCount,
    KvReport,
    KvStatus,
    KvUntil,
    status_from_json,
)
from scripted_core.sessions.base import Session

from scripted_canary.expect import check_wanted, in_words, is_reported

_ANSWER_TIMEOUT_S: Final = 60.0
_Kind = tuple[str, str, str]


class _Server:
    """One server, and what its canary had found when the test began."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._before: Mapping[_Kind, int] = {}

    def mark(self) -> None:
        """Count from now on."""
        self._before = {_kind(one): one.total for one in self.ask().counts}

    def since_mark(self, report: KvReport) -> list[KvCount]:
        """What was found since then."""
        return [
            KvCount(one.pool, one.reason, one.launch, one.total - self._before.get(_kind(one), 0))
            for one in report.counts
        ]

    def ask(
        self, until: KvUntil = KvUntil.NOW, *, after: int = 0, timeout_s: float = 0.0
    ) -> KvReport:
        """What its canary says now, or when something has come. ``ConfigError`` where there is none."""
        report = self._status(until, after=after, timeout_s=timeout_s).report
        if report is None:
            raise ConfigError(
                f"{self.url} has no KV canary any more", hint="something has detached it"
            )
        return report

    def _status(self, until: KvUntil, *, after: int, timeout_s: float) -> KvStatus:
        where = urlsplit(self.url)
        assert where.hostname is not None, "a URL of a server has a host"
        query = urlencode({"until": until.value, "after": after, "timeout_s": timeout_s})
        connection = http.client.HTTPConnection(
            where.hostname, where.port, timeout=timeout_s + _ANSWER_TIMEOUT_S
        )
        try:
            connection.request("GET", f"{KV_REPORT_PATH}?{query}")
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != http.HTTPStatus.OK:
            raise ConfigError(
                f"{self.url} says nothing of a KV canary: {response.status} "
                f"{body.decode(errors='replace')[:300]}",
                hint="start it with kv_canary='log'",
            )
        return status_from_json(body)

    def describe(self, report: KvReport) -> str:
        """What was found, for people."""
        where = f"the {self.name} server" if self.name else "the server"
        new = self.since_mark(report)
        return f"{where}: {in_words(new, report.last if any(one.total for one in new) else ())}"


class ServerCanary:
    """The canaries of the servers of one engine: of the two of a pair, or of one.

    What was found before it was made, or before the latest ``mark()``, does not count.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        """``urls`` by side; one server that is no side of anything has the name ``""``.

        Raises ``ConfigError`` for a server without a canary, and ``OSError`` for none at all.
        """
        self._servers = {name: _Server(name, url) for name, url in urls.items()}
        self.mark()

    @classmethod
    def of(cls, session: Session) -> ServerCanary:
        """Those of a session; ``ConfigError`` for an engine in this process, or without a canary."""
        if not isinstance(session, ScriptedHttpServer):
            raise ConfigError(
                f"engine {session.config.engine!r} runs in this process and has no URLs",
                hint="use the assertions of scripted_canary.in_script, in a script",
            )
        return cls(session.member_urls or {"": session.base_url})

    def mark(self) -> None:
        """Count from now on."""
        for server in self._servers.values():
            server.mark()

    def report(self, side: str = "") -> KvReport:
        """What one server's canary says now, of all its life."""
        (server,) = self._chosen(side)
        return server.ask()

    def assert_per_forward_violation_reported(
        self,
        *,
        fail_reason: str,
        target_group: str | None = None,
        side: str | None = None,
        flush_wait_seconds: float = 2.0,
    ) -> None:
        """A forward has found a violation of this reason, or finds one within so many seconds.

        ``target_group`` is a kind of pool (``full``, ``window``, ``draft``); ``side`` is ``prefill`` or
        ``decode``, and either will do without it. The server answers when there is one: nothing is
        polled. Raises ``AssertionError`` with what was found instead, and ``ConfigError`` for a
        reason, kind or side that there is not.
        """
        deadline = monotonic() + flush_wait_seconds
        servers = self._chosen(side)

        def waits(server: _Server) -> KvReport | None:
            report = server.ask()
            check_wanted(fail_reason, target_group, (one.pool for one in report.counts))
            while not is_reported(
                server.since_mark(report), fail_reason=fail_reason, target_group=target_group
            ):
                left = deadline - monotonic()
                if left <= 0:
                    return report
                report = server.ask(
                    KvUntil.VIOLATION, after=report.violations_total, timeout_s=left
                )
            return None

        with ThreadPoolExecutor(max_workers=len(servers)) as pool:
            misses = list(pool.map(waits, servers))
        if None in misses:
            return
        told = "; ".join(
            server.describe(miss)
            for server, miss in zip(servers, misses, strict=True)
            if miss is not None
        )
        group = "" if target_group is None else f" in a {target_group!r} pool"
        raise AssertionError(
            f"no forward has reported {fail_reason}{group} within {flush_wait_seconds:g} s; {told}"
        )

    def assert_no_violation(self, *, side: str | None = None, wait_seconds: float = 2.0) -> None:
        """Nothing was found, and nothing is until the engine is idle, or for so many seconds.

        An idle engine finds nothing more by itself, so nobody waits longer than for that. Without
        ``side`` it is asserted of every server. Raises ``AssertionError`` with what was found.
        """
        servers = self._chosen(side)
        deadline = monotonic() + wait_seconds
        for server in servers:
            left = max(deadline - monotonic(), 0.0)
            report = server.ask(KvUntil.IDLE, timeout_s=left)
            if any(one.total for one in server.since_mark(report)):
                raise AssertionError(f"violations where none should be; {server.describe(report)}")

    def _chosen(self, side: str | None) -> Sequence[_Server]:
        if side is None:
            return tuple(self._servers.values())
        if side not in self._servers:
            known = ", ".join(repr(name) for name in self._servers if name) or "none"
            raise ConfigError(
                f"side={side!r} is no server here", hint=f"the sides of this engine: {known}"
            )
        return (self._servers[side],)


class KvCanaryTestCase(ScriptedTestCase):
    """The seeds' assertions for ``unittest``; put it before another case, such as ``PdTestCase``."""

    def setUp(self) -> None:
        """What was found before this test does not count."""
        super().setUp()
        self.kv_canary = ServerCanary.of(self.server)

    def assert_per_forward_violation_reported(
        self,
        *,
        fail_reason: str,
        target_group: str | None = None,
        side: str | None = None,
        flush_wait_seconds: float = 2.0,
    ) -> None:
        """See ``ServerCanary.assert_per_forward_violation_reported``."""
        self.kv_canary.assert_per_forward_violation_reported(
            fail_reason=fail_reason,
            target_group=target_group,
            side=side,
            flush_wait_seconds=flush_wait_seconds,
        )

    def assert_no_violation(self, *, side: str | None = None, wait_seconds: float = 2.0) -> None:
        """See ``ServerCanary.assert_no_violation``."""
        self.kv_canary.assert_no_violation(side=side, wait_seconds=wait_seconds)


def _kind(count: KvCount) -> _Kind:
    return (count.pool, count.reason, count.launch)

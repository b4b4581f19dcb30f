"""Requests of a user's to a pair of servers, many at a time."""

from __future__ import annotations

import http.client
import json
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import urlsplit

from scripted_core import ScriptedHttpServer
from scripted_core.errors import ConfigError
from scripted_core.requests import require_int
from scripted_core.sessions.base import Session

SHORT_PROMPT: Final = (
    "The quick brown fox jumps over the lazy dog, and the dog, who has seen it before, sleeps on."
)
_ERROR_CHARACTERS: Final = 2000
_MOST_AT_ONCE: Final = 10_000
_LONGEST_TIMEOUT_S: Final = 86_400.0


def post_parallel_generate(
    *, url: str, prompts: Sequence[str], max_new_tokens: int, timeout: float
) -> list[dict[str, Any]]:
    """POST each prompt to `url` at once, and return what came back, in the order of the prompts.

    A result is the JSON that was answered, with `status_code` added; of an answer that is no JSON, or of
    none within `timeout` seconds, it has `error` instead (and `status_code` 0 where there is no answer).
    Raises `ConfigError` for a `timeout` or a `max_new_tokens` that cannot be.
    """
    require_int("post_parallel_generate", "max_new_tokens", max_new_tokens, at_least=1)
    _require_timeout("post_parallel_generate", timeout)
    if not prompts:
        return []
    with ThreadPoolExecutor(max_workers=len(prompts)) as pool:
        return list(
            pool.map(
                lambda prompt: _post(url, prompt, max_new_tokens=max_new_tokens, timeout=timeout),
                prompts,
            )
        )


def _require_timeout(call: str, timeout: object) -> None:
    """More than 0 and at most a day: sockets take 0 for "do not wait", and cannot count to infinity."""
    number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
    if not number or not 0 < timeout <= _LONGEST_TIMEOUT_S:  # type: ignore[operator]
        raise ConfigError(
            f"{call}: timeout={timeout!r} is not a number of seconds above 0",
            hint=f"give seconds for each request, up to {_LONGEST_TIMEOUT_S:,.0f}",
        )


def _post(url: str, prompt: str, *, max_new_tokens: int, timeout: float) -> dict[str, Any]:
    where = urlsplit(url)
    body = {
        "text": prompt,
        "sampling_params": {"temperature": 0.0, "max_new_tokens": max_new_tokens},
    }
    assert where.hostname is not None, "a URL of a server has a host"
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=timeout)
    try:
        connection.request(
            "POST", where.path, json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        text = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return {"status_code": 0, "error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()
    return {"status_code": response.status, **_answered(text)}


def _answered(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except ValueError:
        return {"error": text[:_ERROR_CHARACTERS]}
    return answer if isinstance(answer, dict) else {"answer": answer}


class PdPair:
    """A running pair of servers, as a test that is no script uses it.

    Attributes:
        lb_url: the router's.
        prefill_url: the prefill server's.
        decode_url: the decode server's.
    """

    def __init__(self, *, lb_url: str, prefill_url: str, decode_url: str) -> None:
        self.lb_url = lb_url
        self.prefill_url = prefill_url
        self.decode_url = decode_url

    @classmethod
    def of(cls, session: Session) -> PdPair:
        """The pair that a session has started; `ConfigError` for an engine that is none."""
        urls = session.member_urls if isinstance(session, ScriptedHttpServer) else {}
        if not isinstance(session, ScriptedHttpServer) or not {"prefill", "decode"} <= urls.keys():
            raise ConfigError(
                f"engine {session.config.engine!r} was not started as a pair of servers",
                hint="start it as a server (reference:server) with pair_kwargs()",
            )
        return cls(lb_url=session.base_url, prefill_url=urls["prefill"], decode_url=urls["decode"])

    def send_parallel_short_requests(
        self,
        n: int,
        *,
        assert_all_success: bool = True,
        max_new_tokens: int = 100,
        timeout: float = 60.0,
        distinct_prompts: bool = False,
    ) -> list[dict[str, Any]]:
        """Send `n` short prompts to the router at once; their results, as `post_parallel_generate`.

        With `distinct_prompts` they differ from their first words on, also from those of any earlier
        call, so that no prefix of one is cached for another. `timeout` is in seconds for each. Raises
        `AssertionError` with the first result that is no success, unless that is not asserted, and
        `ConfigError` for an `n` below 1 and other numbers that cannot be.
        """
        call = "send_parallel_short_requests"
        require_int(call, "n", n, at_least=1)
        if n > _MOST_AT_ONCE:
            raise ConfigError(
                f"{call}: n={n} is above {_MOST_AT_ONCE}",
                hint="each request is a thread of its own",
            )
        require_int(call, "max_new_tokens", max_new_tokens, at_least=1)
        _require_timeout(call, timeout)
        prompts = [SHORT_PROMPT] * n
        if distinct_prompts:
            nonce = uuid.uuid4().hex[:8]
            prompts = [f"{i} {nonce} {SHORT_PROMPT}" for i in range(n)]
        results = post_parallel_generate(
            url=f"{self.lb_url}/generate",
            prompts=prompts,
            max_new_tokens=max_new_tokens,
            timeout=timeout,
        )
        if assert_all_success:
            for i, result in enumerate(results):
                assert result["status_code"] == 200, f"request {i} of {n}: {result}"
        return results

"""`PdTestCase`: the servers of a pair for `unittest`, with the attributes and calls of `PdPair`."""

from __future__ import annotations

from typing import Any, ClassVar

from scripted_core import ScriptedTestCase

from scripted_backend_pd.arguments import pair_kwargs
from scripted_backend_pd.pair_client import PdPair


class PdTestCase(ScriptedTestCase):
    """One pair for the class: `ENGINE_KWARGS` are its arguments, `BACKEND` an engine as a server."""

    BACKEND: ClassVar[str | None] = "reference:server"
    ENGINE_KWARGS: ClassVar[dict[str, Any]] = pair_kwargs()

    @property
    def lb_url(self) -> str:
        """The router's URL."""
        return self.pair.lb_url

    @property
    def prefill_url(self) -> str:
        """The prefill server's URL."""
        return self.pair.prefill_url

    @property
    def decode_url(self) -> str:
        """The decode server's URL."""
        return self.pair.decode_url

    @property
    def pair(self) -> PdPair:
        """All of it in one."""
        return PdPair.of(self.server)

    def send_parallel_short_requests(
        self,
        n: int,
        *,
        assert_all_success: bool = True,
        max_new_tokens: int = 100,
        timeout: float = 60.0,
        distinct_prompts: bool = False,
    ) -> list[dict[str, Any]]:
        """Send short prompts to the router at once; see `PdPair.send_parallel_short_requests`."""
        return self.pair.send_parallel_short_requests(
            n,
            assert_all_success=assert_all_success,
            max_new_tokens=max_new_tokens,
            timeout=timeout,
            distinct_prompts=distinct_prompts,
        )

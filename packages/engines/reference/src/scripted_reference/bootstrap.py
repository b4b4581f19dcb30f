"""Where the two servers of a prefill/decode pair meet for a request, in SGLang's field names."""

from __future__ import annotations

import re
from typing import Final

import msgspec

DEFAULT_BOOTSTRAP_PORT: Final = 8998


class Bootstrap(msgspec.Struct, frozen=True):
    """The prefill server's bootstrap address, and the room that the router has chosen for a request."""

    host: str
    port: int
    room: int

    def refusal(self) -> str | None:
        """Return why nobody can be met there, or `None` if somebody can."""
        if re.fullmatch(r"[\w.:-]+", self.host) is None or not 0 < self.port < 65536:
            return f"bootstrap_host={self.host!r} with bootstrap_port={self.port} is no address."
        return None

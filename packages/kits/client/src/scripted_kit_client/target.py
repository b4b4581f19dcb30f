"""Which server a kit is run against, and how it is spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from scripted_core.errors import ConfigError

DEFAULT_TIMEOUT_S = 120.0


class Api(StrEnum):
    """The routes by which a server generates."""

    AUTO = "auto"
    """`/generate` where the server has it, else OpenAI's."""
    GENERATE = "generate"
    """SGLang's `/generate`; the reference engine has it too."""
    OPENAI = "openai"
    """OpenAI's `/v1/completions`, which every engine has."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A running server.

    Attributes:
        url: where it is, as `http://host:port`, or with the path that a proxy puts in front.
        api_key: sent as `Authorization: Bearer …` with every request, scrapes too.
        headers: further headers of every request.
        timeout_s: how long a request may take, streams as a whole; a kit may give its longest
            requests more.
        api: how text is asked for.
        model: the model that OpenAI's routes are asked for; by default the first that is listed.
    """

    url: str
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = DEFAULT_TIMEOUT_S
    api: Api = Api.AUTO
    model: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"{self.url!r} is no URL of a server", hint="give it as http://127.0.0.1:30000"
            )
        if parts.query or parts.fragment:
            raise ConfigError(
                f"{self.url!r} has more than a path behind the host",
                hint="leave out what begins with ? or #",
            )
        if not self.timeout_s > 0:
            raise ConfigError(
                f"a timeout of {self.timeout_s:g} s is over before it begins",
                hint="give a number of seconds above 0",
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        object.__setattr__(self, "api", Api(self.api))

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers of each request."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {**key, **self.headers}

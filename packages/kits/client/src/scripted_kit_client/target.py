"""Which server a kit is run against, and how it is spoken to."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from scripted_core.errors import ConfigError

DEFAULT_TIMEOUT_S: Final = 120.0
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""A token of RFC 9110."""


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
        _look_at_url(self.url)
        for name, value in self.all_headers.items():
            _look_at_header(name, value)
        if not 0 < self.timeout_s < math.inf:
            raise ConfigError(
                f"a timeout of {self.timeout_s:g} s is none that ends a request",
                hint="give a number of seconds above 0",
            )
        if self.api not in set(Api):
            raise ConfigError(
                f"there is no API {self.api!r}", hint=f"give one of {', '.join(map(str, Api))}"
            )
        object.__setattr__(self, "url", self.url.rstrip("/"))
        object.__setattr__(self, "api", Api(self.api))

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers of each request."""
        key = {} if self.api_key is None else {"Authorization": f"Bearer {self.api_key}"}
        return {**key, **self.headers}


def _look_at_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError as error:
        raise ConfigError(
            f"{url!r} is no URL of a server: {error}", hint="give it as http://127.0.0.1:30000"
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ConfigError(
            f"{url!r} is no URL of a server", hint="give it as http://127.0.0.1:30000"
        )
    if any(character.isspace() for character in url) or _CONTROL.search(url):
        raise ConfigError(
            f"{url!r} is no URL of a server: it has a space or a control character in it",
            hint="write a space in a path as %20",
        )
    if parts.username is not None or parts.password is not None:
        # Reports name the URL, and a CI job's summary is read by many.
        raise ConfigError(
            "a user or a password in the URL would be in every report",
            hint="--header 'Authorization: Basic …', or --api-key for a bearer token",
        )
    if parts.query or parts.fragment:
        raise ConfigError(
            f"{url!r} has more than a path behind the host",
            hint="leave out what begins with ? or #",
        )


def _look_at_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a header",
            hint="letters, digits and hyphens: --header X-Team:a",
        )
    if _CONTROL.search(value):
        raise ConfigError(  # without the value, which may be a key
            f"the value of the header {name} has a line end or a control character in it",
            hint="was it read from a file with its last line end?",
        )

"""The handle of one request, as a script holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scripted_core.errors import ConfigError
from scripted_core.requests import ClientStream
from scripted_core.views import FinishReason, RequestStatus

if TYPE_CHECKING:
    from scripted_core.context import ScriptedContext


@dataclass(frozen=True)
class ScriptedReqHandle:
    """A request by its rid. A handle of a rid that the engine has never seen is legal."""

    rid: str
    context: ScriptedContext = field(repr=False, compare=False)

    @property
    def req(self) -> Any | None:
        """The engine's own object; ``None`` until its scheduler has received it, and after the end."""
        return self.context.find_req_by_rid(self.rid)

    @property
    def finished(self) -> bool:
        """Whether the engine has reported the end of the request, by whatever way."""
        return self.context.is_finished(self.rid)

    @property
    def finish_reason(self) -> FinishReason | None:
        """How it ended; ``None`` while it lives."""
        return self.context.finish_reason(self.rid)

    @property
    def is_chunking(self) -> bool:
        """Whether its prompt is part way through a chunked prefill."""
        return self.context.is_chunking(self.rid)

    @property
    def chunks_done(self) -> int:
        """Prefill batches so far of a prompt that needs several; see ``ScriptedContext``."""
        return self.context.chunks_done(self.rid)

    @property
    def chunked_parks(self) -> int:
        """Iterations in which it was the chunked request and no chunk of it was scheduled."""
        return self.context.chunked_parks(self.rid)

    @property
    def status(self) -> RequestStatus:
        """Where it is in its life."""
        return self.context.status(self.rid)

    @property
    def remaining_prompt_tokens(self) -> int:
        """Prompt tokens whose KV is not in the pool yet; 0 for one that is not live."""
        return self.context.remaining_prompt_tokens(self.rid)

    @property
    def output_ids(self) -> list[int]:
        """Output tokens so far; after the end, the final ones."""
        return self.context.output_ids(self.rid)

    @property
    def kv_pages(self) -> int:
        """KV pages in its block table; 0 for one that is not live."""
        view = self.context.view(self.rid)
        return 0 if view is None else view.kv_pages

    @property
    def lock_refs(self) -> int:
        """Lock ref of the prefix-tree node that it stands on; 0 for one that is not live."""
        view = self.context.view(self.rid)
        return 0 if view is None else view.lock_refs

    @property
    def client(self) -> ClientStream:
        """The other end: what its client has received so far; all of it, once the request ended."""
        return self.context.client_of(self.rid)

    def __str__(self) -> str:
        return f"{self.rid} ({self.status})"


def require_handle(call: str, value: object) -> ScriptedReqHandle:
    """``value`` if it is a request handle, else a :class:`ConfigError` naming ``call``."""
    if not isinstance(value, ScriptedReqHandle):
        raise ConfigError(
            f"{call}: {value!r} is not a request handle",
            hint="pass what start_req returned, or t.handle(rid)",
        )
    return value

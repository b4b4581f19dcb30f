"""Questions about requests and batches, answered from live views and the hook's counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripted_core.errors import ConfigError
from scripted_core.requests import ClientStream
from scripted_core.views import FinishKind, RequestStatus

if TYPE_CHECKING:
    from scripted_core.context.api import ScriptedContext

_CLIENT_END_TIMEOUT_S = 5.0
_ABORTED = frozenset({FinishKind.ABORT, FinishKind.REFUSED})


def status(context: ScriptedContext, rid: str) -> RequestStatus:
    """A reported end comes first; then the live view; a posted one not yet received is waiting."""
    reason = context.hook.ledger.finish_reason(rid)
    if reason is not None:
        return RequestStatus.ABORTED if reason.kind in _ABORTED else RequestStatus.FINISHED
    view = context.engine.request(rid)
    if view is not None:
        return view.status
    if context.hook.ledger.is_submitted(rid):
        return RequestStatus.WAITING
    return RequestStatus.UNKNOWN


def remaining_prompt_tokens(context: ScriptedContext, rid: str) -> int:
    """Prompt tokens whose KV is not in the pool yet; 0 for a rid that is unknown or has ended.

    Of a posted request that the engine has not received yet, all of them.
    """
    view = context.engine.request(rid)
    if view is not None:
        return max(0, view.prompt_len - view.computed_tokens)
    if context.is_finished(rid):
        return 0
    return context.hook.ledger.prompt_len(rid)


def list_active_reqs(context: ScriptedContext) -> list[Any]:
    """The engine's own objects of all live requests."""
    found = (context.engine.find_native(view.rid) for view in context.engine.requests())
    return [req for req in found if req is not None]


def client_of(context: ScriptedContext, rid: str) -> ClientStream:
    """The client end of a request of this script.

    Once the engine has reported the end, the client's end is waited for: over HTTP it arrives a
    moment later.
    """
    client = context.hook.ledger.client(rid)
    if client is None:
        raise ConfigError(
            f"no request {rid!r} was started by this script", hint="use what start_req returned"
        )
    if context.is_finished(rid):
        client.wait_ended(_CLIENT_END_TIMEOUT_S)
    return client


def batch_composition(context: ScriptedContext) -> dict[str, list[str]]:
    """Who prefills, who decodes and who is mid-chunk in the latest batch, and who runs at all."""
    running = list(context.engine.queues().running)
    record = context.batch
    if record is None:
        return {"prefill": [], "decode": [], "chunked": [], "running": running}
    extend = set(record.extend_rids)
    return {
        "prefill": list(record.extend_rids),
        "decode": [rid for rid in record.rids if rid not in extend],
        "chunked": list(record.chunked_rids),
        "running": running,
    }

"""A scheduler's surroundings: its place among the ranks, its inbox."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from scripted_sglang._compat.as_shipped import is_as_shipped

# The first release that was seen to; 0.5.20 does not, and what lies between was not looked at.
_KNOWS_LENGTH_ENDS_EARLY: Final = Version("0.5.23")
# The first release that was seen to; 0.5.20 does not.
_GIVES_BATCHES: Final = Version("0.5.23")
_LEVELS = ("dp", "pp", "tp")


def placement(scheduler: Any) -> dict[str, tuple[int, int]]:
    """Rank and size at each level at which there is more than one: ``{"pp": (1, 2)}``.

    Kept in ``scheduler.ps`` up to 0.5.20, then in SGLang's runtime context.
    """
    holder = scheduler.ps if hasattr(scheduler, "ps") else _parallel_context()
    found = {}
    for level in _LEVELS:
        rank, size = getattr(holder, f"{level}_rank", None), getattr(holder, f"{level}_size", None)
        if rank is not None and size is not None and size > 1:
            found[level] = (int(rank), int(size))
    return found


def _parallel_context() -> Any:
    from sglang.srt.runtime_context import get_parallel

    return get_parallel()


def microbatches(scheduler: Any) -> Iterator[Any]:
    """The batches of a pipeline's slots: what runs in each, what is in flight, what ran last."""
    for name in ("running_mbs", "mbs", "last_mbs"):
        for batch in getattr(scheduler, name, ()):
            if batch is not None:
                yield batch


def is_in_flight(scheduler: Any) -> bool:
    """Whether any slot of a pipeline has a batch whose result is still out."""
    return any(batch is not None for batch in scheduler.mbs)


def empty_plan(running_batch: Any) -> Any:
    """What ``get_next_batch_to_run`` returns when there is nothing to run; up to 0.5.15 ``None``."""
    from sglang.srt.managers import schedule_batch

    plan = getattr(schedule_batch, "NextBatchPlan", None)
    return None if plan is None else plan(batch_to_run=None, running_batch=running_batch)


def tokenizer_socket(scheduler: Any) -> Any | None:
    """The socket that requests come through, ``None`` but on the driver rank.

    The scheduler's own attribute is newer than 0.5.15.
    """
    return scheduler.ipc_channels.recv_from_tokenizer


def deferred_messages(scheduler: Any) -> tuple[Any, ...]:
    """Messages received and put off by the scheduler itself, which 0.5.20 does not do yet."""
    return tuple(getattr(scheduler, "_deferred_input_requests", ()))


def admit_again(scheduler: Any) -> None:
    """Let the scheduler look for memory for what waits.

    Once something did not fit, it admits nothing until a request leaves the running batch. Up to
    0.5.20 that is so for an empty batch as well, which no request can leave: memory that comes back
    from elsewhere is then never noticed.
    """
    if is_as_shipped():
        return
    scheduler.running_batch.batch_is_full = False


def knows_length_ends_early(version: str) -> bool:
    """Whether a release that overlaps sees that a request ends by length before it launches again.

    One that does not has fed the last token back by then, and keeps its KV in the prefix tree.
    """
    try:
        return Version(version) >= _KNOWS_LENGTH_ENDS_EARLY
    except InvalidVersion:
        return False


def gives_batches_to_its_model(version: str) -> bool:
    """Whether a model worker is given the scheduler's own batch; older releases copy it."""
    try:
        return Version(version) >= _GIVES_BATCHES
    except InvalidVersion:
        return False


def front_url(scheduler: Any) -> str:
    """Where the server's HTTP front is, as seen from its own machine."""
    return str(scheduler.server_args.url())


def front_headers(scheduler: Any) -> dict[str, str]:
    """What the front asks of whoever posts to it: the key that it was started with, if it was."""
    key = getattr(scheduler.server_args, "admin_api_key", None) or scheduler.server_args.api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


_SECRETS = ("key", "password", "token_file")


_SETTLED = {
    "page_size": "page_size",
    "chunked_prefill_size": "chunked_prefill_size",
    "max_running_requests": "max_running_requests",
    "max_total_tokens": "max_total_num_tokens",
}
"""Arguments that the scheduler has settled, and its attribute: up to 0.5.20 `server_args` is settled
itself, later it is what was given."""


def server_arguments(scheduler: Any) -> dict[str, Any]:
    """Every server argument, but for secrets; those that scripts care for as they are in force."""
    given = scheduler.server_args
    # A msgspec struct from 0.5.23 on, a dataclass before.
    names = getattr(given, "__struct_fields__", None) or vars(given)
    found = {
        name: getattr(given, name)
        for name in names
        if not name.startswith("_") and not name.endswith(_SECRETS)
    }
    for name, attribute in _SETTLED.items():
        if hasattr(scheduler, attribute):
            found[name] = getattr(scheduler, attribute)
    context_length = getattr(scheduler.model_config, "context_len", None)
    return found if context_length is None else {**found, "context_length": context_length}

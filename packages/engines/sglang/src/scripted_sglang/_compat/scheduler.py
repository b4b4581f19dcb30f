"""A scheduler's surroundings: its place among the ranks, its inbox."""

from __future__ import annotations

from typing import Any

_LEVELS = ("dp", "pp", "tp")


def rank_names(scheduler: Any) -> list[str]:
    """Such as ``pp1`` and ``tp0``, of what there is more than one.

    Kept in ``scheduler.ps`` up to 0.5.20, then in SGLang's runtime context.
    """
    holder = scheduler.ps if hasattr(scheduler, "ps") else _parallel_context()
    found = []
    for name in _LEVELS:
        rank, size = getattr(holder, f"{name}_rank", None), getattr(holder, f"{name}_size", None)
        if rank is not None and size is not None and size > 1:
            found.append(f"{name}{rank}")
    return found


def _parallel_context() -> Any:
    from sglang.srt.runtime_context import get_parallel

    return get_parallel()


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
    scheduler.running_batch.batch_is_full = False

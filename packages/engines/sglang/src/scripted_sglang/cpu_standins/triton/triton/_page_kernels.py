"""The two kernels that give out pages of the KV pool, as host code on tensors of a CPU.

Up to 0.5.20 SGLang's paged allocator has no other way to give out pages, on a CPU either. Both fill
`out` in place, and leave the rest of it as it is when pages run out: the allocator counts the pages
itself and discards `out` then. Slots of a page stand together: slot = page * page_size + offset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def alloc_extend(
    prefix_lens: torch.Tensor,
    seq_lens: torch.Tensor,
    last_slots: torch.Tensor,
    free_pages: torch.Tensor,
    out: torch.Tensor,
    batch_bound: int,
    page_size: int,
) -> None:
    """Slots for the tokens of each request from its prefix length to its sequence length.

    First the rest of the page in which `last_slots` stands, then new pages in the order of
    `free_pages`, one request after the other.
    """
    pages = free_pages.tolist()
    slots: list[int] = []
    for prefix_len, seq_len, last_slot in zip(
        prefix_lens.tolist(), seq_lens.tolist(), last_slots.tolist(), strict=True
    ):
        in_old_page = min(seq_len - prefix_len, -prefix_len % page_size)
        slots.extend(range(last_slot + 1, last_slot + 1 + in_old_page))
        missing = seq_len - prefix_len - in_old_page
        wanted = -(-missing // page_size)
        taken, pages = pages[:wanted], pages[wanted:]
        if len(taken) < wanted:
            break
        new = [page * page_size + offset for page in taken for offset in range(page_size)]
        slots.extend(new[:missing])
    _write(out, slots)


def alloc_decode(
    seq_lens: torch.Tensor,
    last_slots: torch.Tensor,
    free_pages: torch.Tensor,
    out: torch.Tensor,
    batch_bound: int,
    page_size: int,
) -> None:
    """One slot for each request: the next in its page, or the first of a new page."""
    pages = iter(free_pages.tolist())
    slots: list[int] = []
    for seq_len, last_slot in zip(seq_lens.tolist(), last_slots.tolist(), strict=True):
        if (seq_len - 1) % page_size:
            slots.append(last_slot + 1)
            continue
        page = next(pages, None)
        if page is None:
            break
        slots.append(page * page_size)
    _write(out, slots)


def _write(out: torch.Tensor, slots: list[int]) -> None:
    out[: len(slots)] = out.new_tensor(slots)


ON_CPU: dict[str, Callable[..., Any]] = {
    "alloc_extend_kernel": alloc_extend,
    "alloc_decode_kernel": alloc_decode,
}

"""SGLang's `torch_native` attention reads windows with the wrong indices: translate them first.

The backend, the only one that runs everywhere on a CPU, takes the slots of a request from
`req_to_token`, which has those of the full pool, and reads the keys and values of a sliding-window
layer with them, although that layer's pool has slots of its own. Seen up to 0.5.23; see
`docs/findings/sglang-torch-native-swa-indices.md` in the repository.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scripted_sglang._compat.as_shipped import is_as_shipped

_TABLE, _ROWS, _LENGTHS = 4, 5, 6


def read_windows(original: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> Any:
    """AROUND ``_run_sdpa_forward_extend`` and ``…_decode``: a window layer gets its own slots.

    The arguments are query, output, key and value buffer, table of slots by row, rows, lengths.
    """
    in_window = kwargs.get("sliding_window_size") is not None and _has_windows(backend)
    if not in_window or is_as_shipped():
        return original(backend, *args, **kwargs)
    import torch

    rows, lengths = args[_ROWS], args[_LENGTHS]
    mapping = backend.token_to_kv_pool.full_to_swa_index_mapping
    slots = args[_TABLE][rows, : int(lengths.max())].to(torch.int64)
    # Of a slot outside the window this is the padding slot 0, which the mask leaves out.
    args = (
        *args[:_TABLE],
        mapping[slots],
        torch.arange(len(rows), device=rows.device),
        *args[_ROWS + 1 :],
    )
    return original(backend, *args, **kwargs)


def _has_windows(backend: Any) -> bool:
    return getattr(backend.token_to_kv_pool, "full_to_swa_index_mapping", None) is not None

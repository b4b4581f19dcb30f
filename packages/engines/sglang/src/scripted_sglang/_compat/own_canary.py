"""SGLang's own KV canary on a CPU, and what it has found: read from its counter, never from its log.

Of its kernels three have a torch reference for a CPU, two are triton's and run in its interpreter.
Beside that it makes a stream with an argument that the streams of a CPU do not have, and pins memory.
See `docs/findings/sglang-kv-canary-on-a-cpu.md` in the repository.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from scripted_sglang._compat.as_shipped import is_as_shipped
from scripted_sglang._compat.pinned_memory import do_without_pinned_memory

_TAG, _SLOT, _POSITION, _BITS = 0, 1, 2, 7


def do_without_device_streams(*args: Any, **kwargs: Any) -> None:
    """BEFORE ``CanaryManager.__init__``: in a process without an accelerator, a stream of the CPU's."""
    import torch

    if is_as_shipped() or torch.accelerator.is_available():
        return
    from sglang.srt.kv_canary.runner import canary_manager

    do_without_pinned_memory()
    canary_manager.create_device_stream = lambda device: torch.cpu.Stream()


def own_canary_manager(scheduler: Any) -> Any | None:
    """The canary of a scheduler's model; ``None`` without one, and where SGLang has none at all."""
    return getattr(scheduler.tp_worker.model_runner, "canary_manager", None)


def forwards_seen(manager: Any) -> int:
    """Forwards that it was told of."""
    return int(manager._outer_step_counter)


def found_total(manager: Any) -> int:
    """Its violation counter, as the device has it now."""
    return int(manager._device_state.violation_log.violation_write_index)


def found_since(manager: Any, before: int) -> list[tuple[str, int, int, tuple[str, ...]]]:
    """What was found behind the first ``before``: launch, slot, position and reasons, as it names them.

    Those are left out that its ring had no room for any more.
    """
    from sglang.kernels.ops.kv_canary.consts import FailReason
    from sglang.kernels.ops.kv_canary.verify import CanaryLaunchTag

    ring = manager._device_state.violation_log.violation_ring
    rows = ring[before : min(found_total(manager), len(ring))].tolist()
    return [
        (
            CanaryLaunchTag(row[_TAG]).name.lower(),
            row[_SLOT],
            row[_POSITION],
            tuple(
                bit.name.lower().removesuffix("_mismatch")
                for bit in FailReason
                if row[_BITS] & int(bit)
            ),
        )
        for row in rows
    ]


def launches(manager: Any) -> Counter[str]:
    """How often each of its kernels has run."""
    from sglang.kernels.ops.kv_canary.verify import CanaryLaunchTag

    counts = manager._device_state.kernel_run_counters.tolist()
    return Counter({tag.name.lower(): counts[tag.value] for tag in CanaryLaunchTag})

"""Which device a stage computes on."""

from __future__ import annotations

from typing import Final

from scripted_reference.pp.stage import Stage

_CUDA: Final = "cuda"


def device_of(device: str, stage: Stage) -> str:
    """Return the device of a stage: `"cuda"` means one GPU each, as far as there are so many.

    A device with a number is that of every stage, as is `"cpu"`.
    """
    if device != _CUDA:
        return device
    import torch

    count = torch.cuda.device_count()
    return device if count == 0 else f"{_CUDA}:{stage.index % count}"

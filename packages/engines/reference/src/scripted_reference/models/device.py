"""Where a transformer computes, and what makes torch repeat itself there bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from scripted_registry.errors import ConfigError


def open_device(name: str) -> torch.device:
    """Return the device `name`, `"cpu"` or `"cuda"` (also `"cuda:1"`), ready to compute.

    On CUDA this switches TF32 off and torch's deterministic algorithms on, for the whole process.
    Raises `ConfigError` for another device, and for CUDA where there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"engine argument device={name!r} is no device of the reference engine",
            hint="use 'cpu' or 'cuda'",
        )
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"engine argument device={name!r}, but torch {torch.__version__} finds no such device",
            hint="use device='cpu', or install a torch with CUDA on a machine with a GPU",
        )
    # Read by cuBLAS when it is first used; without it deterministic algorithms are refused.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written, so nothing has to be filled in beforehand.
    torch.utils.deterministic.fill_uninitialized_memory = False
    return device


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread of the CPU, then give the process its number of threads back.

    Threads divide a large operation where it suits their number, and nothing promises that the ends of
    the parts are computed by the same instructions as their middles. Operations on a few lanes are too
    small to gain from threads, anyway.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

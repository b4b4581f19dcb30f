"""How a test file says in which stage of CI it runs.

The calls do nothing when the file is imported: they are read from its source, without importing it.
That is why they stand at the top level of the file, with literal arguments, and why nothing is
checked here: `python -m scripted_registry` refuses what cannot be read, with file and line.
"""

from __future__ import annotations


def register_cuda_ci(
    est_time: float,
    suite: str | None = None,
    nightly: bool = False,
    disabled: str | None = None,
    *,
    stage: str | None = None,
    runner_config: str | None = None,
) -> None:
    """Register the test file for CI on a machine with GPUs.

    `est_time` is the expected run time in seconds. The suite is named by `suite`, or by `stage` and
    `runner_config` together: `{stage}-test-{runner_config}`. `nightly` leaves the file out of runs
    by day; `disabled` is the reason why it does not run at all.
    """


def register_cpu_ci(
    est_time: float,
    suite: str | None = None,
    nightly: bool = False,
    disabled: str | None = None,
    *,
    stage: str | None = None,
    runner_config: str | None = None,
) -> None:
    """Register the test file for CI on a machine without a GPU; arguments as `register_cuda_ci`."""


def register_ci(
    est_time: float,
    suite: str | None = None,
    nightly: bool = False,
    disabled: str | None = None,
    *,
    backend: str,
    stage: str | None = None,
    runner_config: str | None = None,
) -> None:
    """Register the test file for CI on a machine with any kind of device.

    `backend` is what a runner of the stage names as its `CiRunner.backend`: `"cpu"`, `"cuda"`, or
    what a plugin's runners bring. The other arguments are those of `register_cuda_ci`.
    """

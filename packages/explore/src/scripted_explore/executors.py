"""Where the tasks of a campaign run: in this process, in several of them, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from scripted_core.errors import ConfigError

from scripted_explore.campaign import Campaign, Outcome, Task, run_task
from scripted_explore.workers import Progress, run_in_processes


class Executor(Protocol):
    """Runs tasks side by side."""

    def run(self, tasks: Sequence[Task], *, progress: Progress) -> Iterator[Outcome]:
        """Yield the outcome of each task as it ends."""
        ...


class LocalExecutor:
    """One task here; several each in a process of its own, so that engines share nothing."""

    def run(self, tasks: Sequence[Task], *, progress: Progress) -> Iterator[Outcome]:
        """Yield the outcome of each task as it ends; an interrupt ends the processes."""
        if len(tasks) == 1:
            yield Campaign(tasks[0], progress=lambda outcome: progress(0, outcome)).run()
        else:
            yield from run_in_processes(tasks, progress=progress)


class RayExecutor:
    """Each task as a Ray task; ``resources`` are those of a runner kind, such as ``{"cpu-runner": 1}``.

    Connects to the cluster of ``address``: ``None`` is that of ``RAY_ADDRESS``, or a new local one.
    """

    def __init__(
        self, *, address: str | None = None, resources: dict[str, float] | None = None
    ) -> None:
        self._address = address
        self._resources = resources or {}

    def run(self, tasks: Sequence[Task], *, progress: Progress) -> Iterator[Outcome]:
        """Yield the outcome of each task as it ends."""
        ray = _ray()
        started = not ray.is_initialized()
        if started:
            ray.init(address=self._address, log_to_driver=False, include_dashboard=False)
        try:
            remote = ray.remote(run_task).options(num_cpus=1, resources=self._resources or None)
            waiting = {remote.remote(task): place for place, task in enumerate(tasks)}
            while waiting:
                done, _ = ray.wait(list(waiting), num_returns=1)
                outcome: Outcome = ray.get(done[0])
                progress(waiting.pop(done[0]), outcome)
                yield outcome
        finally:
            if started:
                ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "--executor ray needs Ray, which is not installed",
            hint="pip install 'scripted-explore[ray]'",
        ) from error
    return ray

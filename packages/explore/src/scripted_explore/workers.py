"""Tasks in processes of their own, that end with this one and tell of what they find at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from scripted_core.cli.signals import EndingSignals

from scripted_explore.campaign import Campaign, Outcome, Task
from scripted_explore.errors import WorkerDied

Progress = Callable[[int, Outcome], None]
"""Told of the outcome so far of a task, by its place."""

_EVERY_S = 0.5
"""Seconds between two reports of a worker: each is a copy of all that it has seen."""
_SHARE = 0.02
"""Of a worker's time that may go into reports, which grow with a campaign."""
_END_TIMEOUT_S = 10.0
"""For a worker that is told to end to shut its engines down."""


class Worker:
    """A process that runs one task, and the end of the pipe on which it tells how it goes."""

    def __init__(self, place: int, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.place = place
        self.pipe, far = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=_work, args=(task, far), name=f"explore worker {place}", daemon=True
        )
        self.process.start()
        far.close()  # so that the pipe ends when the process does

    def end(self) -> None:
        """End it, with its engines."""
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_END_TIMEOUT_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


def run_in_processes(tasks: Sequence[Task], *, progress: Progress) -> Iterator[Outcome]:
    """Yield the outcome of each task as it ends.

    A worker that dies does not end the others; what it had told of is kept by ``progress``, and
    ``WorkerDied`` is raised when all have ended. What a worker raises is raised at once. However this
    ends, no worker is left.
    """
    workers: list[Worker] = []
    died: list[str] = []
    try:
        workers += [Worker(place, task) for place, task in enumerate(tasks)]
        waiting: dict[Any, Worker] = {worker.pipe: worker for worker in workers}
        while waiting:
            for pipe in wait(list(waiting)):
                worker = waiting[pipe]
                try:
                    is_last, told = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join(_END_TIMEOUT_S)
                    died.append(f"{worker.process.pid} ({_how(worker.process.exitcode)})")
                    del waiting[pipe]
                    continue
                if isinstance(told, BaseException):
                    raise told
                progress(worker.place, told)
                if is_last:
                    del waiting[pipe]
                    yield told
    finally:
        for worker in workers:
            worker.end()
    if died:
        raise WorkerDied(
            f"{len(died)} of {len(tasks)} processes of the campaign died: {', '.join(died)}",
            hint="what they had found is written; with fewer --jobs each has more memory",
        )


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "it closed its pipe"
    return signal.Signals(-exitcode).name if exitcode < 0 else f"exit status {exitcode}"


def _work(task: Task, pipe: Connection) -> None:
    """What a worker does, until it is done or told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when it is over
    with EndingSignals() as ending:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        # Not as SystemExit, which Hypothesis and a session take for what a test did.
        with contextlib.suppress(KeyboardInterrupt):
            _explore(task, pipe)
    if ending.received is not None:
        sys.exit(128 + ending.received)


def _explore(task: Task, pipe: Connection) -> None:
    due = time.monotonic() + _EVERY_S
    told: list[tuple[str, int]] = []

    def progress(outcome: Outcome) -> None:
        nonlocal due, told
        found = _found(outcome)
        now = time.monotonic()
        if found != told or now >= due:
            told = found
            pipe.send((False, outcome))
            sent = time.monotonic()
            due = sent + max(_EVERY_S, (sent - now) / _SHARE)

    try:
        pipe.send((True, Campaign(task, progress=progress).run()))
    except Exception as error:  # whatever it is, it is the parent's to say
        pipe.send((True, error))


def _found(outcome: Outcome) -> list[tuple[str, int]]:
    return [(one.name, len(one.program.ops)) for one in outcome.findings]


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)  # by way of every `finally`, on the main thread

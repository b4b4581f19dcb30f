"""Running a shell command line to its end, and ending it with us."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

_ENDS_WITHIN_S = 30.0
"""An interrupted pytest stops its engines first."""


def run_shell(
    command: str, *, cwd: Path, env: Mapping[str, str], output: Path | None = None
) -> int:
    """Run `command` and return its exit status, negative for a signal.

    What it prints goes to the file `output`, or where ours does. It has a process group of its own.
    An exception here (Ctrl-C, a signal that was made one) interrupts that group, waits until pytest
    has cleaned up, and then kills what is left of it; a second Ctrl-C kills at once. Its `python` is
    the one that runs this.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_by_signals())
        stream = None if output is None else stack.enter_context(open(output, "wb"))
        with _interruptible():
            process = subprocess.Popen(
                command,
                shell=True,
                cwd=cwd,
                env={**env, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=None if stream is None else subprocess.STDOUT,
                process_group=0,
            )
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


@contextlib.contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, where nobody else has them do something."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending = (signal.SIGTERM, signal.SIGHUP)
    ours = [one for one in ending if signal.getsignal(one) is signal.SIG_DFL]
    for one in ours:
        signal.signal(one, signal.default_int_handler)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, signal.SIG_DFL)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a child that starts meanwhile not ignore SIGINT, as it would below `nohup ... &`."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        _signal(process, signal.SIGINT)
        process.wait(_ENDS_WITHIN_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        pass
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)

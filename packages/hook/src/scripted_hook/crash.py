"""What every rank does so that its end is never silent: stacks on request, a report on a crash."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import traceback
from collections.abc import Iterator

from scripted_core.logs import set_log_context
from scripted_core.wire.address import STACKS_SIGNAL, SessionAddress
from scripted_core.wire.messages import OutOfBandError
from scripted_core.wire.transport import report_out_of_band


def register_stacks(address: SessionAddress) -> None:
    """Let the test side ask this process for every thread's stack, by signal, at any time."""
    file = open(address.stacks(os.getpid()), "w")  # noqa: SIM115 - stays open for the signal handler
    faulthandler.register(STACKS_SIGNAL, file=file, all_threads=True, chain=False)


@contextlib.contextmanager
def reporting(address: SessionAddress, *, rank: str) -> Iterator[None]:
    """Report an exception that ends an event loop to the test side, then let it go on."""
    try:
        set_log_context(rank=rank)
        yield
    except BaseException as error:
        if not isinstance(error, (SystemExit, KeyboardInterrupt)):
            report_out_of_band(
                address,
                OutOfBandError(
                    rank=rank,
                    pid=os.getpid(),
                    error_type=type(error).__name__,
                    message=str(error),
                    traceback="".join(traceback.format_exception(error)),
                ),
            )
        raise
    finally:
        set_log_context(rank=None)

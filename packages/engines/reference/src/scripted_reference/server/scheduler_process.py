"""The scheduler process: started by the front, which writes a `Start` to its standard input."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from scripted_core.wire.address import SessionAddress, address_from_env
from scripted_registry.errors import ScriptedError

from scripted_reference.server.process import (
    complain,
    die_with,
    on_stop_signal,
    print_forgivingly,
    take_stop_signals,
)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What the front says first. `parent` is its pid, `folder` where the sockets belong."""

    engine_kwargs: dict[str, Any]
    folder: str
    base_url: str
    parent: int


def main() -> None:
    """Build the engine, say that it is ready, and run it until told to end."""
    print_forgivingly()
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=Start)
    die_with(start.parent)
    address = address_from_env(os.environ)
    if address is not None:
        address.announce("scheduler")
    with _reporting(address):
        _serve(start, in_session=address is not None)


@contextlib.contextmanager
def _reporting(address: SessionAddress | None) -> Iterator[None]:
    """In a session, tell the test side at once of an exception that ends this process."""
    if address is None:
        yield
        return
    from scripted_hook.crash import reporting

    with reporting(address, rank="scheduler"):
        yield


@contextlib.contextmanager
def _complaining() -> Iterator[None]:
    """What is wrong with arguments, a model folder or a setting is said without a traceback."""
    try:
        yield
    except ScriptedError as error:
        complain(str(error))
        sys.exit(1)


def _serve(start: Start, *, in_session: bool) -> None:
    import zmq
    from scripted_hook import ScriptedTokenizerRecvProxy, maybe_init_scripted_scheduler_hook

    from scripted_reference.engine import Engine
    from scripted_reference.engine_kwargs import parse_engine_kwargs
    from scripted_reference.server import wire
    from scripted_reference.server.adapter import ServerAdapter
    from scripted_reference.server.event_loop import EventLoop
    from scripted_reference.server.inbox import Belonging, FrontSocket

    with _complaining():
        args = parse_engine_kwargs(start.engine_kwargs)
        engine = Engine(args)
    endpoints = wire.Endpoints(Path(start.folder))
    context = zmq.Context()
    requests, outputs = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    for socket, endpoint in ((requests, endpoints.requests), (outputs, endpoints.outputs)):
        wire.unlimited(socket)
        socket.connect(endpoint)
    belonging = Belonging()
    inbox = ScriptedTokenizerRecvProxy(
        underlying=FrontSocket(requests), poll_on=requests, parks=belonging.is_foreign
    )
    loop_class = EventLoop
    fault = engine.server_args.inject_fault
    if fault is not None:
        from scripted_reference.server.broken import event_loop_class

        loop_class = event_loop_class(fault)
    loop = loop_class(engine, inbox=inbox, inbox_socket=requests, output_socket=outputs)
    on_stop_signal(loop.stop)
    take_stop_signals()
    adapter: ServerAdapter | None = None
    if in_session:
        adapter = ServerAdapter(
            engine, inbox=inbox, belonging=belonging, base_url=start.base_url, args=args
        )
        with _complaining():
            hook = maybe_init_scripted_scheduler_hook(
                engine.scheduler,
                adapter=adapter,
                tokenizer_recv_proxy=inbox,
                http_poster=adapter.poster,
            )
        assert hook is not None, "in a session there is a hook"
        loop.attach(adapter=adapter, hook=hook)
    gc.collect()
    gc.freeze()  # what is there now stays: no collection in the middle of a script need look at it
    loop.run()
    if adapter is not None:
        adapter.close()
    context.destroy(linger=0)


if __name__ == "__main__":
    main()

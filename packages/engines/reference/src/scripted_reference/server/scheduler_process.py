"""The scheduler process: started by the front, which writes a `Start` to its standard input."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from scripted_core.wire.address import SessionAddress, address_from_env
from scripted_registry.errors import ScriptedError

from scripted_reference.server.process import (
    ENV_ROUTER,
    complain,
    die_with,
    on_stop_signal,
    print_forgivingly,
    take_stop_signals,
)

if TYPE_CHECKING:
    import zmq

    from scripted_reference.args import ServerArgs
    from scripted_reference.engine import Engine
    from scripted_reference.server.adapter import ServerAdapter


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What the front says first. `parent` is its pid, `folder` where the sockets belong.

    With several pipeline stages each has a process; the front talks to that of stage 0.
    """

    engine_kwargs: dict[str, Any]
    folder: str
    base_url: str
    parent: int
    stage: int = 0


def main() -> None:
    """Build the engine, say that it is ready, and run it until told to end."""
    print_forgivingly()
    start = msgspec.json.decode(sys.stdin.buffer.read(), type=Start)
    die_with(start.parent)
    address = address_from_env(os.environ)
    if address is not None:
        address.announce(_role(start))
    with _reporting(address, role=_role(start)):
        if start.stage == 0:
            _serve(start, in_session=address is not None)
        else:
            _follow(start, in_session=address is not None)


def _role(start: Start) -> str:
    """What this process is called where its end is told of."""
    several = (start.engine_kwargs.get("pp_size") or 1) != 1
    return f"scheduler pp{start.stage}" if several else "scheduler"


@contextlib.contextmanager
def _reporting(address: SessionAddress | None, *, role: str) -> Iterator[None]:
    """In a session, tell the test side at once of an exception that ends this process."""
    if address is None:
        yield
        return
    from scripted_hook.crash import reporting

    with reporting(address, rank=role):
        yield


@contextlib.contextmanager
def _complaining() -> Iterator[None]:
    """What is wrong with arguments, a model folder or a setting is said without a traceback."""
    try:
        yield
    except ScriptedError as error:
        complain(str(error))
        sys.exit(1)


def _build(start: Start, args: ServerArgs, context: zmq.Context[Any]) -> Engine:
    """The engine of this process: all of it, or one pipeline stage that has met the others."""
    from scripted_reference.args import DisaggregationMode
    from scripted_reference.engine import Engine

    if args.disaggregation_mode == DisaggregationMode.PREFILL:
        from scripted_reference.pd.servers import PrefillServer

        host = urlsplit(start.base_url).hostname
        assert host is not None, "a URL of a server has a host"
        return PrefillServer(args, context=context, host=host)
    if args.disaggregation_mode == DisaggregationMode.DECODE:
        from scripted_reference.pd.servers import DecodeServer

        return DecodeServer(args, context=context)
    if args.pp_size == 1:
        return Engine(args)
    from scripted_reference.pp.engine import stages_of
    from scripted_reference.pp.processes import StageEngine
    from scripted_reference.pp.sockets import SocketLink

    stage = stages_of(args)[start.stage]
    link = SocketLink(context, folder=Path(start.folder), stage=stage)
    engine = StageEngine(args, stage=stage, link=link)
    link.meet()
    return engine


def _serve(start: Start, *, in_session: bool) -> None:
    import zmq
    from scripted_hook import ScriptedTokenizerRecvProxy, maybe_init_scripted_scheduler_hook

    from scripted_reference.engine_kwargs import parse_engine_kwargs
    from scripted_reference.server import wire
    from scripted_reference.server.event_loop import EventLoop
    from scripted_reference.server.inbox import Belonging, FrontSocket

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with _complaining():
        args = parse_engine_kwargs(start.engine_kwargs)
        engine = _build(start, args, context)
        engine.kv.announce()
    endpoints = wire.Endpoints(Path(start.folder))
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
        adapter = _adapter(
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


def _adapter(engine: Engine, *, base_url: str, **options: Any) -> ServerAdapter:
    """The adapter of this process: of the one scheduler, of the first stage, or of one of a pair."""
    from scripted_reference.pd.servers import DecodeServer, PrefillServer
    from scripted_reference.pp.processes import DriverAdapter, StageEngine
    from scripted_reference.server.adapter import ServerAdapter

    address = address_from_env(os.environ)
    router = os.environ.get(ENV_ROUTER)  # what the session has started beside this server
    if router and address is not None and isinstance(engine, DecodeServer):
        from scripted_hook.pair import Partner

        from scripted_reference.server.pair_adapters import DecodeServerAdapter

        return DecodeServerAdapter(engine, partner=Partner(address), base_url=router, **options)
    if router and isinstance(engine, PrefillServer):
        from scripted_reference.server.pair_adapters import PrefillServerAdapter

        return PrefillServerAdapter(engine, base_url=base_url, **options)
    if isinstance(engine, StageEngine):
        return DriverAdapter(engine, base_url=base_url, **options)
    return ServerAdapter(engine, base_url=base_url, **options)


def _follow(start: Start, *, in_session: bool) -> None:
    import zmq
    from scripted_hook import maybe_init_scripted_scheduler_hook

    from scripted_reference.engine_kwargs import parse_engine_kwargs
    from scripted_reference.pp.processes import FollowerAdapter, FollowerLoop, StageEngine

    on_stop_signal(_end_at_once)
    take_stop_signals()
    with _complaining():
        engine = _build(start, parse_engine_kwargs(start.engine_kwargs), zmq.Context())
        engine.kv.announce()
    assert isinstance(engine, StageEngine), "only a pipeline has followers"
    adapter = FollowerAdapter(engine)
    hook = None
    if in_session:
        hook = maybe_init_scripted_scheduler_hook(engine.scheduler, adapter=adapter)
    gc.collect()
    gc.freeze()
    FollowerLoop(engine, adapter=adapter, hook=hook).run()


def _end_at_once() -> None:
    os._exit(0)  # it may be waiting for another stage, and has nothing to put away


if __name__ == "__main__":
    main()

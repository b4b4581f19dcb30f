"""The front process: HTTP on one side, the scheduler process on the other, from start to end."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from scripted_reference.args import ServerArgs
from scripted_reference.models.tokenizer import load_tokenizer
from scripted_reference.server.child import SchedulerChild
from scripted_reference.server.context import FrontContext
from scripted_reference.server.http_errors import errors_as_json
from scripted_reference.server.listening import cannot_serve
from scripted_reference.server.process import STOP_SIGNALS, StopFlag, complain
from scripted_reference.server.routes_canary import CanaryRoutes, wants_canary
from scripted_reference.server.routes_control import ControlRoutes
from scripted_reference.server.routes_generate import GenerateRoutes
from scripted_reference.server.routes_info import InfoRoutes
from scripted_reference.server.routes_openai import OpenAiRoutes
from scripted_reference.server.scheduler_client import SchedulerClient
from scripted_reference.server.wire import Endpoints

_LARGEST_BODY_BYTES = 64 * 1024 * 1024
_BACKLOG = 1024
_HANDLERS_GRACE_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Front:
    """What is there before the front runs: arguments, a bound socket, a scheduler being started.

    `folder` is where the two processes meet; one that `is_private_folder` is deleted when they have
    met, so that nothing is left of it even if both are killed. `stop` is set when this was told to
    end before `serve` could take signals itself.
    """

    args: ServerArgs
    listener: socket.socket
    base_url: str
    folder: Path
    is_private_folder: bool
    children: Sequence[SchedulerChild]
    stop: StopFlag

    async def serve(self) -> bool:
        """Serve until told to end, or until the scheduler ends; return whether it was the former.

        Raises `ConfigError` for a tokenizer that cannot be read, and for a port that another server
        has begun to listen on meanwhile.
        """
        told = asyncio.Event()
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, told.set)
        if self.stop.is_set:
            told.set()
        gone: list[SchedulerChild] = []
        for child in self.children:
            loop.add_reader(child.pidfd, _note_end, child, gone, ended)
        client = SchedulerClient(Endpoints(self.folder))
        waiting = [asyncio.create_task(event.wait()) for event in (told, ended)]
        receiving = asyncio.create_task(client.receive_forever())
        try:
            await self._serve(client, stop=[*waiting, receiving])
        finally:
            for child in self.children:
                loop.remove_reader(child.pidfd)
            for task in (*waiting, receiving):
                task.cancel()
            client.close()
        if receiving.done() and not receiving.cancelled():
            receiving.result()
        if ended.is_set() and not told.is_set():
            first = gone[0]
            which = "scheduler process" if len(self.children) == 1 else f"stage pp{first.stage}"
            complain(f"the {which} (pid {first.pid}) {first.describe_end()}")
            return False
        return True

    async def _serve(self, client: SchedulerClient, *, stop: list[asyncio.Task[Any]]) -> None:
        """Serve from the moment the scheduler is ready until one of `stop` is done."""
        tokenizer = load_tokenizer(self.args)
        await asyncio.wait([client.ready, *stop], return_when=asyncio.FIRST_COMPLETED)
        if not client.ready.done():
            return
        await client.state()  # answered: both sockets are connected
        if self.is_private_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        metrics = None
        if self.args.enable_metrics:
            from scripted_reference.server.metrics import Metrics

            metrics = Metrics(
                model_name=self.args.served_model_name or self.args.model_path,
                with_device_timer=self.args.enable_metrics_device_timer,
                with_canary=wants_canary(self.args),
            )
        context = FrontContext(
            args=self.args,
            ready=client.ready.result(),
            client=client,
            tokenizer=tokenizer,
            metrics=metrics,
        )
        runner = web.AppRunner(
            application(context),
            handle_signals=False,
            # A client that goes away ends its handler, which aborts its request.
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=_HANDLERS_GRACE_S,
        )
        await runner.setup()
        try:
            await self._listen(runner)
            print(f"serving {context.model_name} on {self.base_url}", flush=True)
            await asyncio.wait(stop, return_when=asyncio.FIRST_COMPLETED)
            client.fail_all("the server is stopping")
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        try:
            await web.SockSite(runner, self.listener, backlog=_BACKLOG).start()
        except OSError as error:  # two sockets may have one port until one of them listens
            host, port = self.listener.getsockname()[:2]
            raise cannot_serve(error, host=host, port=port) from error


def _note_end(child: SchedulerChild, gone: list[SchedulerChild], ended: asyncio.Event) -> None:
    """A scheduler process has ended; the first one is the cause, and the others end with it."""
    if child not in gone:
        gone.append(child)
    ended.set()


def application(context: FrontContext) -> web.Application:
    """All routes."""
    app = web.Application(client_max_size=_LARGEST_BODY_BYTES, middlewares=[errors_as_json])
    generate: type[GenerateRoutes] = GenerateRoutes
    openai: type[OpenAiRoutes] = OpenAiRoutes
    fault = context.args.inject_fault
    if fault is not None:
        from scripted_reference.server import broken

        generate = broken.generate_routes_class(fault)
        openai = broken.openai_routes_class(fault)
    for group in (generate, ControlRoutes, openai, InfoRoutes, CanaryRoutes):
        app.add_routes(group(context).routes())
    return app

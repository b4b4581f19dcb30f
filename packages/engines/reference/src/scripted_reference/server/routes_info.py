"""What the server is and how it is: health, model, arguments, metrics."""

from __future__ import annotations

import dataclasses
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from scripted_reference._version import __version__
from scripted_reference.server.context import FrontContext
from scripted_reference.server.http_errors import RequestError, json_response
from scripted_reference.server.replies import WEIGHT_VERSION
from scripted_reference.server.wire import ReplicaState


class InfoRoutes:
    """Reads only; nothing here waits for a script that holds the engine."""

    def __init__(self, context: FrontContext) -> None:
        self._context = context

    def routes(self) -> list[web.RouteDef]:
        """Paths and handlers."""
        return [
            web.get("/model_info", self.model_info),
            web.get("/get_model_info", self.model_info),
            web.get("/server_info", self.server_info),
            web.get("/get_server_info", self.server_info),
            web.get("/v1/models", self.models),
            web.get("/v1/models/{model:.+}", self.model),
            web.get("/metrics", self.metrics),
        ]

    async def model_info(self, request: web.Request) -> web.Response:
        """The model."""
        context = self._context
        return json_response(
            {
                "model_path": context.args.model_path,
                "served_model_name": context.model_name,
                "tokenizer_path": context.args.model_path,
                "is_generation": True,
                "preferred_sampling_params": None,
                "weight_version": WEIGHT_VERSION,
                "load_format": context.args.load_format,
                "has_image_understanding": False,
                "has_audio_understanding": False,
            }
        )

    async def server_info(self, request: web.Request) -> web.Response:
        """The arguments that are in force, and the state of each replica."""
        context = self._context
        state = await context.client.state()
        info: dict[str, Any] = {
            **dataclasses.asdict(context.args),
            "engine": "scripted-reference",
            "served_model_name": context.model_name,
            "status": "ready",
            "max_total_num_tokens": context.ready.limits.pool_tokens,
            "max_req_input_len": context.ready.limits.context_len - 1,
            "startup_time": context.started_s,
            "version": __version__,
            "internal_states": [
                {"paused": state.paused, **_as_told(replica)} for replica in state.replicas
            ],
        }
        return json_response(info)

    async def models(self, request: web.Request) -> web.Response:
        """The model and its adapters, as OpenAI lists them."""
        return json_response({"object": "list", "data": self._cards()})

    async def model(self, request: web.Request) -> web.Response:
        """One of them."""
        name = request.match_info["model"]
        for card in self._cards():
            if card["id"] == name:
                return json_response(card)
        raise RequestError(f"The model {name!r} does not exist", status=HTTPStatus.NOT_FOUND)

    def _cards(self) -> list[dict[str, Any]]:
        context = self._context
        base: dict[str, Any] = {
            "object": "model",
            "created": int(context.started_s),
            "owned_by": "scripted",
        }
        name = context.model_name
        length = context.ready.limits.context_len
        return [
            {**base, "id": name, "root": name, "parent": None, "max_model_len": length},
            *(
                {**base, "id": lora, "root": lora, "parent": name, "max_model_len": None}
                for lora in sorted(context.ready.limits.lora_names)
            ),
        ]

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text; 404 unless the server was started with `enable_metrics`."""
        metrics = self._context.metrics
        if metrics is None:
            raise RequestError(
                "there are no metrics: start the server with enable_metrics=True "
                "(scripted serve --engine-arg enable_metrics=true)",
                status=HTTPStatus.NOT_FOUND,
            )
        body, content_type = metrics.exposition(await self._context.client.state())
        return web.Response(body=body, headers={"Content-Type": content_type})


def _as_told(replica: ReplicaState) -> dict[str, Any]:
    """Its fields; as in SGLang, an accept length only where something was verified."""
    fields = msgspec.structs.asdict(replica)
    if replica.avg_spec_accept_length is None:
        del fields["avg_spec_accept_length"]
    return fields

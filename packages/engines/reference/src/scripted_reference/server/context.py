"""What all routes share."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scripted_reference.args import DisaggregationMode, ServerArgs
from scripted_reference.models.tokenizer import Tokenizer
from scripted_reference.server.dispatch import generate_req
from scripted_reference.server.generation import Generation
from scripted_reference.server.http_errors import RequestError
from scripted_reference.server.scheduler_client import SchedulerClient
from scripted_reference.server.wire import Generate, Ready

if TYPE_CHECKING:
    from scripted_reference.server.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class FrontContext:
    """The running server behind the routes; `started_s` is in seconds since the epoch."""

    args: ServerArgs
    ready: Ready
    client: SchedulerClient
    tokenizer: Tokenizer
    metrics: Metrics | None
    started_s: float = field(default_factory=time.time)

    @property
    def model_name(self) -> str:
        """What the server calls its model."""
        return self.args.served_model_name or self.args.model_path

    def refuse_if_impossible(self, spec: Generate) -> None:
        """Raise `RequestError` for a request that the engine would refuse, in the same words."""
        if self.client.is_live(spec.rid):
            raise RequestError(f"The request id {spec.rid!r} is in use by a live request.")
        mode = self.args.disaggregation_mode
        if mode == DisaggregationMode.NULL and spec.bootstrap is not None:
            raise RequestError(
                "bootstrap_room: this server is none of a pair; leave it out, or start it with "
                "disaggregation_mode"
            )
        if mode != DisaggregationMode.NULL and spec.bootstrap is None:
            raise RequestError(
                f"This is the {mode} server of a pair, and the request has no bootstrap_room: send it "
                "to the router."
            )
        lost = None if spec.bootstrap is None else spec.bootstrap.refusal()
        if lost is not None:
            raise RequestError(lost)
        size = self.ready.num_replicas
        if spec.dp_rank is not None and not 0 <= spec.dp_rank < size:
            raise RequestError(
                f"dp_rank is 0 to {size - 1} here (dp_size={size}), got {spec.dp_rank}."
            )
        refusal = self.ready.limits.refusal(generate_req(spec))
        if refusal is not None:
            raise RequestError(refusal)

    def observe_end(self, generation: Generation) -> None:
        """A request has ended, or its client has gone."""
        if self.metrics is not None:
            self.metrics.observe_end(generation)

"""Rule `end`: each request ends once, as it was asked to, with the tokens that it puts out alone."""

from __future__ import annotations

from scripted_core.capabilities import Capability
from scripted_core.views import FinishKind

from scripted_explore.world import Rule, Tracked

_ABORT_STEPS = 16
"""An abort has ended its request after so many iterations of an engine that is not paused."""
_CLIENT_TIMEOUT_S = 20.0


class EndsRule(Rule):
    """Aborts where asked and soon, lengths and stops where due, outputs as undisturbed, clients told."""

    def after(self) -> None:
        """Look at what ended, and at aborts that have had no effect."""
        world = self.world
        for request in world.ended_now:
            self._check(request)
        if world.pause is not None or world.side_paused:
            return
        patience = _ABORT_STEPS * world.facts.slots
        for request in world.live.values():
            posted = request.abort_posted
            if posted is not None and world.step - max(posted, world.unpaused_since) > patience:
                world.broken("abort", f"{request.rid} lives {patience} iterations after its abort")

    def at_rest(self) -> None:
        """Every client knows of the end."""
        world = self.world
        # Where the engine is in this process, whoever has not been told by now never is.
        patience_s = _CLIENT_TIMEOUT_S if Capability.HTTP in world.t.capabilities else 0.0
        for request in world.requests:
            if request.reason is None:
                world.broken("end", f"nobody has reported the end of {request.rid}")
            client = request.handle.client
            if not client.wait_ended(patience_s):
                world.broken("end", f"the client of {request.rid} was not told of its end")
            if client.token_ids != request.output[: len(client.token_ids)]:
                world.broken(
                    "output",
                    f"the client of {request.rid} received {client.token_ids}, "
                    f"undisturbed it is {request.output}",
                )

    def _check(self, request: Tracked) -> None:
        world, reason = self.world, request.reason
        assert reason is not None
        output = request.handle.output_ids
        if output != request.output[: len(output)]:
            world.broken(
                "output", f"{request.rid} put out {output}, undisturbed it is {request.output}"
            )
        wanted = len(request.output)
        match reason.kind:
            case FinishKind.ABORT:
                if request.abort_posted is None and not request.may_fail:
                    world.broken("abort", f"{request.rid} was aborted unasked: {reason.message}")
            case FinishKind.REFUSED:
                world.broken("end", f"{request.rid} was refused: {reason.message}")
            case FinishKind.STOP | FinishKind.LENGTH:
                if len(output) != wanted:
                    world.broken(
                        "end",
                        f"{request.rid} ended by {reason.kind} after {len(output)} tokens of {wanted}",
                    )
                stopped = request.stop_token is not None and output[-1] == request.stop_token
                # Where both are true of the last token, engines differ in which they name.
                both = stopped and wanted == request.op.new_tokens
                if (reason.kind is FinishKind.STOP) != stopped and not both:
                    world.broken("end", f"{request.rid} says that it ended by {reason.kind}")

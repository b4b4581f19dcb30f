"""Counts per request, from events and the batch log; nothing in here is sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.views import FinishReason, ScriptedBatchRecord


class Ledger:
    """What is known of every request since the last reset.

    ``live_output_ids`` gives the engine's current output tokens of a live rid, or ``None``.
    """

    def __init__(self, *, live_output_ids: Callable[[str], Sequence[int] | None]) -> None:
        self._live_output_ids = live_output_ids
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.specs: dict[str, ReqSpec] = {}
        self.clients: dict[str, ClientStream] = {}
        self.finishes: dict[str, FinishReason] = {}
        self.final_outputs: dict[str, list[int]] = {}
        self._chunks: dict[str, int] = {}
        self._parks: dict[str, int] = {}
        self._partial: set[str] = set()
        self._lengths: dict[str, tuple[int, int]] = {}

    # -- requests ------------------------------------------------------------------------------

    def submitted(self, spec: ReqSpec, client: ClientStream) -> None:
        """Note a request before it is posted."""
        self.specs[spec.rid] = spec
        self.clients[spec.rid] = client

    def finished(self, rid: str, reason: FinishReason, output_ids: Sequence[int]) -> bool:
        """Note an end; False when one was noted before (the first wins)."""
        if rid in self.finishes:
            return False
        self.finishes[rid] = reason
        self.final_outputs[rid] = list(output_ids)
        self._lengths.pop(rid, None)
        return True

    def is_submitted(self, rid: str) -> bool:
        """Whether this script posted it."""
        return rid in self.specs

    def live_rids(self) -> tuple[str, ...]:
        """Posted and not ended."""
        return tuple(rid for rid in self.specs if rid not in self.finishes)

    def client(self, rid: str) -> ClientStream | None:
        """The client end of a request that this script posted."""
        return self.clients.get(rid)

    def finish_reason(self, rid: str) -> FinishReason | None:
        """The reported end of the request."""
        return self.finishes.get(rid)

    def output_ids(self, rid: str) -> list[int]:
        """Output tokens so far; of an ended request, its final ones."""
        final = self.final_outputs.get(rid)
        if final is not None:
            return list(final)
        return list(self._live_output_ids(rid) or ())

    def prompt_len(self, rid: str) -> int:
        """Prompt tokens of a request that this script posted; 0 for any other rid."""
        spec = self.specs.get(rid)
        return 0 if spec is None else len(spec.input_ids)

    def wait_for_clients(self, timeout_s: float) -> bool:
        """Wait until the stream of every posted request has ended; False when the time is up."""
        deadline = time.monotonic() + timeout_s
        return all(
            client.wait_ended(max(0.0, deadline - time.monotonic()))
            for client in self.clients.values()
        )

    # -- chunks --------------------------------------------------------------------------------

    def on_batch(self, record: ScriptedBatchRecord) -> None:
        """Count one batch. A prompt that needs a single batch is never partial and stays at 0."""
        for rid in record.extend_rids:
            if rid in record.chunked_rids:
                self._partial.add(rid)
            elif rid in self._partial:
                self._partial.discard(rid)
            else:
                continue
            self._chunks[rid] = self._chunks.get(rid, 0) + 1

    def on_parked(self, rid: str) -> None:
        """One iteration passed in which it was the chunked one and no chunk of it ran."""
        self._parks[rid] = self._parks.get(rid, 0) + 1

    def chunks_done(self, rid: str) -> int:
        """Prefill batches of a prompt that needed several, the completing one included."""
        return self._chunks.get(rid, 0)

    def chunked_parks(self, rid: str) -> int:
        """Iterations in which it was the chunked one and no chunk of it ran."""
        return self._parks.get(rid, 0)

    # -- outputs -------------------------------------------------------------------------------

    def check_appended(self, rid: str, output_ids: Sequence[int]) -> str | None:
        """Outputs only grow: what is wrong with this look at them, or ``None``.

        The length and the last token that was seen are compared: both are O(1), and a splice
        anywhere before shows in the client's stream, which is compared in full at the end.
        """
        length = len(output_ids)
        seen = self._lengths.get(rid)
        if seen is not None:
            old_length, old_last = seen
            if length < old_length:
                return f"had {old_length} output tokens and now has {length}"
            if output_ids[old_length - 1] != old_last:
                return f"output token {old_length - 1} was {old_last}, now {output_ids[old_length - 1]}"
            if length == old_length:
                return None
        if length:
            self._lengths[rid] = (length, output_ids[length - 1])
        return None

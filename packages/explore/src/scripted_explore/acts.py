"""What each operation does to an engine, and what it changes in the world."""

from __future__ import annotations

from typing import Any, Final

from scripted_core.capabilities import Capability
from scripted_core.ops import TransferAction
from scripted_core.views import Side

from scripted_explore import operations as o
from scripted_explore.facts import Avoid
from scripted_explore.program import key_of
from scripted_explore.world import PauseSeen, Tracked, World

_MOST_LIVE: Final = 8
_ROOM: Final = 2
"""Tokens that a context has beyond prompt and output."""


class Actor:
    """Posts operations; one that means nothing at the moment is passed over."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._lost = False

    def do(self, op: o.Op) -> tuple[bool, Any]:
        """Post ``op``; whether it was done, and its receipt or request."""
        match op:
            case o.Start():
                return self._start(op)
            case o.Pause() | o.Continue() | o.PauseSide() | o.ContinueSide():
                return self._pausing(op)
            case o.Abort() | o.AbortNobody() | o.AbortAll() | o.AbortSide():
                return self._abort(op)
            case o.MoveKv():
                return self._move(op)
            case _:
                return self._memory(op)

    def before_rules(self) -> None:
        """An iteration is about to pass."""
        world = self._world
        if world.held:
            # With too little left for the next token of the last one that runs, it ends.
            for one in world.live.values():
                one.may_fail = True

    def after(self) -> None:
        """An iteration has passed."""
        world = self._world
        if self._lost and not any(one.may_fail for one in world.live.values()):
            self._lost = False
        if world.transfer_touched and not world.t.transfer.is_held and not self._lost:
            world.transfer_touched = bool(world.t.transfer.pending)

    def undo_all(self) -> None:
        """Release, resume and continue."""
        world, t = self._world, self._world.t
        world.boundary.append(o.Release())
        if world.held or world.locked:
            t.release_exhausted()
            world.held = world.locked = False
        if world.is_pair:
            t.transfer.resume()
        if world.pause is not None or world.side_paused:
            t.continue_generation()
            world.unpaused_since = world.step
        world.pause, world.side_paused = None, False

    # -- requests ------------------------------------------------------------------------------

    def _start(self, op: o.Start) -> tuple[bool, Any]:
        world, t = self._world, self._world.t
        facts = world.facts
        key = key_of(op)
        known = world.expected.get(key.text)
        length = op.shared + op.own_tokens
        too_long = length + op.new_tokens + _ROOM > facts.context_tokens
        if len(world.live) >= _MOST_LIVE or known is None or too_long:
            return False, None
        if self._avoids_chunks and world.held and length > facts.chunk_tokens:
            return False, None
        stop = known[op.stop_at - 1] if 0 < op.stop_at <= len(known) else None
        output = known[: op.new_tokens]
        if stop is not None:
            own_stop = world.expected.get(f"{key.text} stops")
            end = known.index(stop) + 1
            if own_stop is not None and own_stop[0] <= min(end, op.new_tokens):
                stop = None  # its end-of-sequence token would come first
            else:
                output = output[:end]
        extra: dict[str, Any] = {}
        if Capability.PRIORITY in t.capabilities:
            extra["priority"] = op.priority
        if Capability.DP in t.capabilities:
            extra["dp_rank"] = op.rank
        if op.logprobs and Capability.LOGPROBS in t.capabilities:
            extra |= {"return_logprob": True, "logprob_start_len": 0}
        tokens = key.tokens(t.engine.vocab_size)
        handle = t.start_req(
            input_ids=tokens,
            max_new_tokens=op.new_tokens,
            ignore_eos=stop is None,
            stop_token_ids=None if stop is None else [stop],
            **extra,
        )
        request = Tracked(
            number=len(world.requests),
            handle=handle,
            op=op,
            tokens=tokens,
            output=output,
            posted=world.step,
            stop_token=stop,
        )
        world.requests.append(request)
        world.live[request.rid] = world.by_rid[request.rid] = request
        return True, request

    def _live(self, which: int) -> Tracked | None:
        live = list(self._world.live.values())
        return live[which % len(live)] if live else None

    def _abort(self, op: o.Op) -> tuple[bool, Any]:
        world, t = self._world, self._world.t
        if isinstance(op, o.AbortNobody):
            if not world.live or Capability.HTTP in t.capabilities:
                return False, None
            t.abort(t.handle(next(iter(world.live)).partition("-")[0]))
            return True, None
        if isinstance(op, o.AbortAll):
            if not world.live:
                return False, None
            for one in world.live.values():
                one.abort_posted = world.step
            t.abort_all()
            return True, None
        assert isinstance(op, (o.Abort, o.AbortSide))
        request = self._live(op.which)
        if request is None:
            return False, None
        if isinstance(op, o.AbortSide):
            # An engine that does not have it does nothing.
            request.may_fail = True
            (t.prefill if op.side is Side.PREFILL else t.decode).abort(request.handle)
            return True, request
        request.abort_posted = world.step
        t.abort(request.handle)
        return True, request

    # -- pauses --------------------------------------------------------------------------------

    def _pausing(self, op: o.Op) -> tuple[bool, Any]:
        world, t = self._world, self._world.t
        if isinstance(op, o.Pause):
            meets = world.paused_in == world.step
            world.paused_in = world.step
            world.pause = PauseSeen(op.mode, world.step, meets_another=meets)
            t.pause_generation(mode=op.mode)
            return True, None
        if isinstance(op, o.PauseSide):
            world.side_paused = True
            (t.prefill if op.side is Side.PREFILL else t.decode).pause_generation(mode=op.mode)
            return True, None
        world.unpaused_since = world.step
        if isinstance(op, o.ContinueSide):
            (t.prefill if op.side is Side.PREFILL else t.decode).continue_generation()
            # What the other one is, only a continue of both tells.
            return True, None
        world.pause, world.side_paused = None, False
        t.continue_generation()
        return True, None

    # -- memory --------------------------------------------------------------------------------

    def _memory(self, op: o.Op) -> tuple[bool, Any]:
        world, t = self._world, self._world.t
        match op:
            case o.Flush():
                idle = t.is_fully_idle  # with the flush in the inbox it is not
                return True, (t.flush_cache(), idle)
            case o.EvictAll():
                return True, t.evict_radix()
            case o.EvictPrefix():
                idle = t.is_fully_idle
                t.evict_radix(prefix_tokens=key_of(op).tokens(t.engine.vocab_size))
                return True, idle
            case o.ExhaustKv():
                return self._exhaust_kv(op)
            case o.ExhaustRows():
                rows = t.engine.rows
                if rows is None or rows.available < op.leave_rows:
                    return False, None
                t.exhaust("rows", leave_rows=op.leave_rows)
                world.held = True
            case o.ExhaustLocks():
                t.exhaust_lock_refs(leave_refs=op.leave_refs)
                world.held = world.locked = True
            case o.Release():
                if not world.held:
                    return False, None
                t.release_exhausted()
                world.held = world.locked = False
        return True, None

    def _exhaust_kv(self, op: o.ExhaustKv) -> tuple[bool, Any]:
        world, t = self._world, self._world.t
        chunk = world.facts.chunk_tokens
        if self._avoids_chunks and any(
            len(one.tokens) + len(one.output) > chunk for one in world.live.values()
        ):
            return False, None
        names = sorted(t.engine.kv_pools)
        pool = t.engine.kv_pools[names[op.pool % len(names)]]
        reachable = pool.available + pool.evictable
        t.exhaust_kv(leave_pages=min(op.leave_pages, reachable), pool=pool.name)
        world.held = True
        return True, None

    @property
    def _avoids_chunks(self) -> bool:
        return Avoid.CHUNK_UNDER_PRESSURE in self._world.facts.avoid

    # -- pairs ---------------------------------------------------------------------------------

    def _move(self, op: o.MoveKv) -> tuple[bool, Any]:
        world, transfer = self._world, self._world.t.transfer
        pending = transfer.pending
        if op.action is TransferAction.HOLD:
            world.transfer_touched = True
            return True, transfer.hold()
        if op.action is TransferAction.RESUME:
            return True, transfer.resume()
        if op.action is TransferAction.STEP:
            return transfer.is_held, transfer.step(op.count) if transfer.is_held else None
        if not pending:
            return False, None
        chunk = pending[op.which % len(pending)]
        world.transfer_touched = True
        if op.action is TransferAction.DELAY:
            transfer.delay(chunk, iterations=op.count)
        elif op.action is TransferAction.REORDER:
            transfer.reorder(list(reversed(pending)))
        elif op.action is TransferAction.DUPLICATE:
            transfer.duplicate(chunk, iterations=op.count)
        else:
            transfer.drop(chunk)
            request = world.by_rid.get(chunk.rid)
            self._lost = True
            if request is not None:
                request.may_fail = True
        return True, None

"""The seams between a script's context and an engine, as protocols.

The engine side (``scripted_hook``) extends :class:`EnginePort` to the full adapter; this module
holds the part that the context, the exhausters and the sessions need. Page counts are pages of the
pool's ``page_size`` tokens; everything is read and changed at iteration boundaries only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scripted_core.capabilities import Capability
from scripted_core.memory_ports import KvPool, PrefixTree, RowPool
from scripted_core.ops import ControlOp, ControlReceipt, PairOp
from scripted_core.requests import ClientStream, ReqSpec
from scripted_core.trace import NOTHING_CHECKED, ChecksDone, StepListener, StepTrace
from scripted_core.views import (
    FinishReason,
    QueueView,
    RequestView,
    ScriptedBatchRecord,
)

if TYPE_CHECKING:
    from scripted_core.ranks import RankView


class EnginePort(Protocol):
    """What a script's context needs of an engine."""

    name: str
    version: str
    capabilities: frozenset[Capability]
    vocab_size: int

    @property
    def scheduler(self) -> Any:
        """The engine's own scheduler object: the escape hatch."""
        ...

    @property
    def is_driver(self) -> bool:
        """Whether scripts run in this process."""
        ...

    @property
    def kv_pools(self) -> Mapping[str, KvPool]:
        """Pools by name; the one that every engine has is ``"full"``."""
        ...

    @property
    def rows(self) -> RowPool | None:
        """The pool of request rows, if the engine has one."""
        ...

    @property
    def prefix_tree(self) -> PrefixTree | None:
        """The prefix tree, if the engine has one."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether a pause is in force."""
        ...

    def is_idle(self) -> bool:
        """No request is waiting or running, nor on its way in."""
        ...

    def is_fully_idle(self) -> bool:
        """Idle, and nothing is in flight either: no result, microbatch or unprocessed message."""
        ...

    def queues(self) -> QueueView:
        """The rids in the engine's queues."""
        ...

    def requests(self) -> Sequence[RequestView]:
        """All live requests."""
        ...

    def request(self, rid: str) -> RequestView | None:
        """One live request."""
        ...

    def find_native(self, rid: str) -> Any | None:
        """The engine's own object of a live request."""
        ...

    def submit(self, spec: ReqSpec, client: ClientStream) -> FinishReason | None:
        """Post a request the way a user's travels and wait until it is in the inbox.

        Returns ``None`` on arrival, and the reason when the engine refused it before its inbox.
        Raises ``ReplyTimeout`` when neither happens in time.
        """
        ...

    def control(self, op: ControlOp) -> ControlReceipt:
        """Post an operation into the inbox; it applies in the coming iteration."""
        ...

    def control_http(self, op: ControlOp, *, await_arrival: bool = True) -> ControlReceipt:
        """Post an operation over the engine's own HTTP API instead.

        ``await_arrival`` waits until it is in the inbox, or raises ``ReplyTimeout``.
        """
        ...


class RequestLedger(Protocol):
    """What the hook has counted about requests since the last reset."""

    def chunks_done(self, rid: str) -> int:
        """Prefill batches of a prompt that needed several, the completing one included."""
        ...

    def chunked_parks(self, rid: str) -> int:
        """Iterations in which the request was the chunked one and no chunk of it ran."""
        ...

    def finish_reason(self, rid: str) -> FinishReason | None:
        """The reported end of the request."""
        ...

    def output_ids(self, rid: str) -> list[int]:
        """Output tokens so far; of an ended request, its final ones."""
        ...

    def client(self, rid: str) -> ClientStream | None:
        """The client end of a request that this script posted."""
        ...

    def is_submitted(self, rid: str) -> bool:
        """Whether this script posted it, also when the engine refused it."""
        ...

    def prompt_len(self, rid: str) -> int:
        """Prompt tokens of a request that this script posted; 0 for any other rid."""
        ...

    def live_rids(self) -> Sequence[str]:
        """Posted and not ended."""
        ...


class SchedulerHookPort(Protocol):
    """What a context needs of the scheduler hook."""

    @property
    def scheduler(self) -> Any:
        """The engine's own scheduler."""
        ...

    @property
    def engine(self) -> EnginePort:
        """The engine behind the hook."""
        ...

    @property
    def ledger(self) -> RequestLedger:
        """Counts per request."""
        ...

    @property
    def batch_log(self) -> Sequence[ScriptedBatchRecord]:
        """Every batch since the last reset."""
        ...

    @property
    def step_index(self) -> int:
        """Iterations since the script's own first step."""
        ...

    @property
    def seed(self) -> int:
        """The session's seed."""
        ...

    @property
    def run_index(self) -> int:
        """Number of this script in its session, from 1."""
        ...

    def submit(self, spec: ReqSpec) -> None:
        """Log a request, post it, and wait for its arrival or refusal."""
        ...

    def post(
        self, op: ControlOp | PairOp, *, via_http: bool = False, await_arrival: bool = True
    ) -> ControlReceipt:
        """Log an operation and post it to the engine."""
        ...

    def rank_views(self) -> Sequence[RankView]:
        """Every rank, the driver first."""
        ...

    def describe_state(self) -> str:
        """The last state, in a few lines, for error messages."""
        ...


@dataclass(frozen=True)
class JobOutcome:
    """How a script run ended: ``error`` is ``None`` on success."""

    error: BaseException | None
    traceback_text: str = ""
    last_state: str = ""
    steps: int = 0
    trace: tuple[StepTrace, ...] = ()
    checks: ChecksDone = NOTHING_CHECKED


class InProcessHook(SchedulerHookPort, Protocol):
    """The hook as an in-process session drives it."""

    def start_job(
        self,
        *,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        check_invariants: bool = True,
        seed: int = 0,
        want_trace: bool = False,
        on_step: StepListener | None = None,
    ) -> None:
        """Take hold at the next iteration boundary, reset, then run the script."""
        ...

    @property
    def outcome(self) -> JobOutcome | None:
        """``None`` while the script runs."""
        ...

    @property
    def progress(self) -> int:
        """A number that grows with every iteration of a job."""
        ...

    def event_digest(self) -> str:
        """Digest of everything that happened in the last script, in order."""
        ...

    def abandon(self) -> None:
        """Drop the running script without resuming it."""
        ...


class InProcessEngine(Protocol):
    """An engine in this very process, as ``scripted_make_engine`` returns it."""

    @property
    def hook(self) -> InProcessHook:
        """The hook that the engine's loop calls."""
        ...

    def iterate(self) -> None:
        """Exactly one scheduler iteration."""
        ...

    def close(self) -> None:
        """Release everything; may be called twice."""
        ...


_PORTS: dict[int, tuple[Any, EnginePort]] = {}


def bind_port(scheduler: Any, port: EnginePort) -> None:
    """Let :func:`port_of` find the port of an engine's own scheduler object."""
    _PORTS[id(scheduler)] = (scheduler, port)


def unbind_port(scheduler: Any) -> None:
    """Forget a scheduler again."""
    _PORTS.pop(id(scheduler), None)


def port_of(scheduler: Any) -> EnginePort:
    """The port of ``scheduler``; ``ConfigError`` when no hook is attached to it."""
    found = _PORTS.get(id(scheduler))
    if found is None:
        from scripted_core.errors import ConfigError

        raise ConfigError(
            f"no scripted hook is attached to this {type(scheduler).__name__}",
            hint="inside a script, pass t.scheduler",
        )
    return found[1]

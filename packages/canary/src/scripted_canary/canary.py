"""The canary of one engine process: told of every forward, it verifies, records, sweeps and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from scripted_core.errors import ConfigError
from scripted_core.kv_report import KvCount, KvReport
from scripted_core.kv_watch import KvBatch, KvWatchPort, SentSlots
from scripted_core.logs import get_logger

from scripted_canary.group import GroupCanary
from scripted_canary.perturb import KvPerturber
from scripted_canary.settings import CanaryMode, CanarySettings
from scripted_canary.shadow import Known, SlotShadow
from scripted_canary.travel import pack, scheme_of, unpack
from scripted_canary.violations import KvCorrupted, KvViolation, Launch, Reason, ViolationLog

_log = get_logger("scripted.canary")
_NAMED_AT_MOST = 8
_REPORTED_AT_MOST = 64


class Canary:
    """Watches the KV of an engine through its :class:`~scripted_core.kv_watch.KvWatchPort`.

    ``attach`` begins it, ``detach`` ends it.

    Attributes:
        settings: how it works.
        violations: the last ones, and how many there were.
        perturber: what breaks slots on purpose.
        is_collected: asked when a violation is found in mode ``raise``: whether somebody collects
            violations at the next iteration boundary, as a script's invariants do. Otherwise the
            forward that is to read the slot ends with ``KvCorrupted``.
    """

    def __init__(self, port: KvWatchPort, *, settings: CanarySettings) -> None:
        self.settings = settings
        self.violations = ViolationLog(capacity=settings.ring_capacity)
        self.is_collected: Callable[[], bool] = lambda: False
        self._port = port
        self._fresh: list[KvViolation] = []
        self._failed_script = False
        self._groups = {
            group.name: GroupCanary(group, settings=settings, found=self._found)
            for group in port.kv_groups()
        }
        self._seen_by_engine = {name: port.forwards_total(name) for name in self._groups}
        self._stopped: dict[str, KvViolation] = {}
        self.perturber = KvPerturber(port, self._groups)

    def attach(self) -> None:
        """Be told of every forward from now on. The engine has to be empty."""
        self._seen_by_engine = {
            name: self._port.forwards_total(name) - group.forwards
            for name, group in self._groups.items()
        }
        self._port.watch_kv(self)

    def detach(self) -> None:
        """Be told of nothing any more."""
        self._port.watch_kv(None)

    # --- figures

    @property
    def violations_total(self) -> int:
        """Violations since the script began; outside any script, since the start."""
        return self.violations.since_cleared

    @property
    def verified_slots_total(self) -> int:
        """Slots verified since the start."""
        return sum(group.verified_slots for group in self._groups.values())

    @property
    def groups(self) -> Mapping[str, GroupCanary]:
        """The canary of each group of pools."""
        return self._groups

    def forwards_seen(self, group: str) -> int:
        """Forwards of a group that it was told of."""
        return self._groups[group].forwards

    def collect(self) -> tuple[KvViolation, ...]:
        """Violations that were not collected before, those of a canary that stopped included."""
        self.check_health()
        for group in self._groups.values():
            group.settle()
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    def begin_script(self, *, is_on: Callable[[], bool]) -> None:
        """A script begins: drop records that nobody collected, the counts stay.

        Its violations are collected while ``is_on`` says so. What a failed script leaves behind runs on
        for some iterations, and raises no error beside the script's own.
        """
        self.collect()
        self.violations.clear()
        self._failed_script = False
        self.is_collected = lambda: is_on() or self._failed_script

    def check_health(self) -> None:
        """Report a violation, once, for each group whose forwards the canary is not told of.

        It raises nothing itself: in mode ``raise`` a script fails at the end of its iteration, and a
        server says so when it is asked for its health.
        """
        for name, group in self._groups.items():
            ran = self._port.forwards_total(name) - self._seen_by_engine[name]
            if ran != group.forwards and name not in self._stopped:
                stopped = self._stopped[name] = KvViolation(
                    step=group.forwards,
                    pool=name,
                    slot=-1,
                    position=-1,
                    reason=Reason.CANARY_STOPPED,
                    expected=ran,
                    found=group.forwards,
                    launch=Launch.HEALTH,
                )
                self._note([stopped], Counter({Reason.CANARY_STOPPED: 1}))
                if self.settings.mode is CanaryMode.RAISE:
                    self._fresh.append(stopped)

    def report(self) -> KvReport:
        """What was found so far, and whether it is told of every forward."""
        self.check_health()
        for group in self._groups.values():
            group.settle()
        return KvReport(
            mode=self.settings.mode.value,
            violations_total=self.violations.total,
            counts=self.violations.counts(self._pools()),
            last=tuple(one.as_record() for one in self.violations.last(_REPORTED_AT_MOST)),
            verified_slots_total=self.verified_slots_total,
            stopped=tuple(one.describe() for one in self._stopped.values()),
        )

    # --- what the engine calls

    def before_forward(self, group: str, batch: KvBatch) -> None:
        """Verify what the forward is going to read, and what it is fed."""
        one = self._groups[group]
        self.perturber.before(one, batch)
        one.before(batch)

    def after_forward(self, group: str, batch: KvBatch, next_tokens: Any | None) -> None:
        """Record what it has written; sweep the prefix tree when it is time."""
        one = self._groups[group]
        one.after(batch, next_tokens)
        self.perturber.after(one, batch)
        interval = self.settings.sweep_interval
        if interval and one.forwards % interval == 0:
            self.sweep(group)

    def take(self, group: str, slots: Any) -> tuple[Known, ...]:
        """What is known of slots that are copied out."""
        return self._groups[group].take(slots)

    def put(self, group: str, slots: Any, taken: Any) -> None:
        """Slots were copied in."""
        self._groups[group].put(slots, taken)

    def send(self, group: str, slots: Any) -> SentSlots:
        """What is known of slots whose KV goes to another process."""
        return pack(self.take(group, slots), scheme=scheme_of(self.settings.real_data))

    def receive(self, group: str, slots: Any, sent: SentSlots | None) -> None:
        """KV came from another process; ``ConfigError`` unless a canary like this one is there."""
        known = unpack(
            sent,
            scheme=scheme_of(self.settings.real_data),
            slots=len(slots),
            pools=len(self._groups[group].shadows),
        )
        self.put(group, slots, known)

    def sweep(self, group: str) -> None:
        """Verify now what the prefix tree holds of a group; ``ConfigError`` for an unknown one."""
        if group not in self._groups:
            raise ConfigError(
                f"canary: there is no group of pools {group!r}",
                hint=f"groups here: {', '.join(self._groups)}",
            )
        one = self._groups[group]
        for shadow in one.shadows:
            cached = self._port.cached_slots(shadow.view.name)
            if cached is not None:
                one.sweep(cached, shadow)

    def shadow(self, storage: str) -> SlotShadow:
        """What is kept of one pool."""
        return next(
            shadow
            for group in self._groups.values()
            for shadow in group.shadows
            if shadow.view.name == storage
        )

    def found_in_script(self) -> tuple[KvCount, ...]:
        """What was found since the script began, by pool, reason and launch."""
        return self.violations.counts(self._pools(), since_cleared=True)

    def _pools(self) -> list[str]:
        return [shadow.view.name for group in self._groups.values() for shadow in group.shadows]

    def _note(self, records: list[KvViolation], counts: Counter[Reason]) -> None:
        self.violations.add(records, counts=counts)
        for one in records[:_NAMED_AT_MOST]:
            _log.warning(
                "kv canary violation",
                pool=one.pool,
                slot=one.slot,
                position=one.position,
                reason=one.reason.value,
                rid=one.rid,
                forward=one.step,
                launch=one.launch.value,
                total=self.violations.total,
            )

    def _found(self, records: list[KvViolation], counts: Counter[Reason]) -> None:
        self._note(records, counts)
        if self.settings.mode is not CanaryMode.RAISE:
            return
        if self.is_collected():
            self._failed_script = True
            self._fresh = [*self._fresh, *records][-self.settings.ring_capacity :]
        else:
            raise KvCorrupted(records[:_NAMED_AT_MOST])

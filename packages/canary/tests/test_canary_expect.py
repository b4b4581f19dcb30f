"""Which violations an expectation counts, and that the log of them loses no count."""

from __future__ import annotations

from collections import Counter

import pytest
from scripted_canary.expect import in_words, is_reported
from scripted_canary.violations import KvViolation, Launch, Reason, ViolationLog
from scripted_core.kv_report import KvCount, KvReport, KvStatus, status_from_json, status_to_json
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=2, stage="unit", runner_config="cpu")

_HASH = Reason.VERIFY_REAL_KV_HASH.value


def _violation(pool="full", launch=Launch.FORWARD, slot=3):
    return KvViolation(
        step=7,
        pool=pool,
        slot=slot,
        position=2,
        reason=Reason.VERIFY_REAL_KV_HASH,
        expected=-5,
        found=6,
        rid="r",
        launch=launch,
    )


@pytest.mark.parametrize(
    ("count", "group", "reported"),
    [
        (KvCount("full", _HASH, "forward", 1), "full", True),
        (KvCount("full@prefill", _HASH, "forward", 1), "full", True),
        (KvCount("window", _HASH, "forward", 1), None, True),
        (KvCount("window", _HASH, "forward", 1), "full", False),
        (KvCount("full", _HASH, "sweep", 1), "full", False),
        (KvCount("full", _HASH, "forward", 0), "full", False),
        (KvCount("full", "verify_token", "forward", 1), "full", False),
    ],
)
def test_only_a_forward_of_this_reason_in_such_a_pool_counts(count, group, reported):
    assert is_reported([count], fail_reason=_HASH, target_group=group) is reported


def test_the_log_counts_by_kind_and_from_a_script_on():
    log = ViolationLog(capacity=2)
    log.add([_violation(slot=i) for i in range(3)], counts=Counter({_violation().reason: 5}))
    log.clear()
    log.add([_violation(launch=Launch.SWEEP)], counts=Counter({_violation().reason: 1}))

    def found(**since):
        return {(c.launch, c.total) for c in log.counts(["full"], **since) if c.total}

    assert found() == {("forward", 5), ("sweep", 1)}
    assert found(since_cleared=True) == {("sweep", 1)}
    assert log.total == 6
    assert [one.launch for one in log.last(9)] == [Launch.SWEEP]


def test_a_report_travels_as_json():
    record = _violation().as_record()
    report = KvReport(
        mode="log",
        violations_total=1,
        counts=(KvCount("full", _HASH, "forward", 1),),
        last=(record,),
        verified_slots_total=12,
        stopped=(),
    )
    status = KvStatus(is_idle=True, report=report)
    assert status_from_json(status_to_json(status)) == status
    assert in_words(report.counts, report.last) == (
        "found: 1 verify_real_kv_hash in full by a forward\n"
        "  verify_real_kv_hash: slot 3 of full, position 2 of r, forward 7"
    )
    with pytest.raises(ValueError, match="is_idle"):
        status_from_json(b"{}")

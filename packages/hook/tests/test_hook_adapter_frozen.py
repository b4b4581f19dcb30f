"""``EngineAdapter`` is frozen: a change of any member's signature needs a new API version."""

from __future__ import annotations

import inspect
from pathlib import Path

from scripted_core.memory_ports import KvPool, PrefixTree, RowPool
from scripted_core.ports import EnginePort
from scripted_hook import BatchFacts, EngineAdapter, EngineEvents
from scripted_registry import HOOKSPEC_API_VERSION
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

_SNAPSHOT = Path(__file__).with_name(f"adapter_api_{HOOKSPEC_API_VERSION}.txt")


def described() -> str:
    lines: list[str] = []
    for protocol in (EnginePort, EngineAdapter, EngineEvents, KvPool, RowPool, PrefixTree):
        lines.append(f"{protocol.__name__}")
        members = dict(vars(protocol))
        for name, annotation in sorted(inspect.get_annotations(protocol).items()):
            lines.append(f"  {name}: {annotation}")
        for name, member in sorted(members.items()):
            if name.startswith("_"):
                continue
            if isinstance(member, property):
                lines.append(f"  {name} -> {inspect.signature(member.fget).return_annotation}")
            elif inspect.isfunction(member):
                lines.append(f"  {name}{inspect.signature(member)}")
    lines.append(f"BatchFacts{BatchFacts.__struct_fields__}")
    return "\n".join(lines) + "\n"


def test_the_adapter_protocol_is_what_was_frozen():
    assert described() == _SNAPSHOT.read_text(), (
        "the protocol that adapters implement has changed: raise HOOKSPEC_API_VERSION, keep the old "
        "snapshot, and say in the changelogs what an adapter has to do"
    )

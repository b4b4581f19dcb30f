"""What the semantics of each call demand, as rules that watch a program run (docs/explore.md)."""

from __future__ import annotations

from scripted_explore.rules.cache import CacheRule
from scripted_explore.rules.ends import EndsRule
from scripted_explore.rules.eviction import EvictionRule
from scripted_explore.rules.flush import FlushRule
from scripted_explore.rules.order import OrderRule
from scripted_explore.rules.pauses import PauseRule
from scripted_explore.rules.pools import PoolRule

RULES = (PauseRule, EndsRule, OrderRule, FlushRule, EvictionRule, CacheRule, PoolRule)

__all__ = ["RULES"]

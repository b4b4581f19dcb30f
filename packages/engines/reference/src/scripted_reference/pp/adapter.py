"""A pipeline in one process behind ``EngineAdapter``: every stage audited and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripted_core.ranks import RankView
from scripted_core.views import Audit, QueueView, RowAudit

from scripted_reference.adapter import ReferenceAdapter
from scripted_reference.audit import pool_audits
from scripted_reference.ownership import row_claims
from scripted_reference.pools import FULL_POOL
from scripted_reference.pp.engine import PipelineEngine
from scripted_reference.pp.pools import StagedKvPool, StagedPrefixTree, StagedRowPool
from scripted_reference.pp.scheduler import PipelineScheduler


class PipelineAdapter(ReferenceAdapter):
    """``scheduler`` is the first stage; memory is taken and given back on every stage."""

    def __init__(self, engine: PipelineEngine) -> None:
        super().__init__(engine)
        self._stages = engine.stages
        self.kv_pools = {FULL_POOL: StagedKvPool(engine.stages)}
        self.rows = StagedRowPool(engine.stages)
        self.prefix_tree = StagedPrefixTree(engine.stages)

    def audit(self) -> Audit:
        """Who owns each page, row and lock of every stage."""
        stages = self._stages
        return Audit(
            pools=tuple(
                [
                    pool
                    for stage in stages
                    for pool in pool_audits(stage, name=_named(FULL_POOL, stage))
                ]
            ),
            rows=_rows(stages),
            lock_refs=[node.lock_ref for stage in stages for node in stage.tree_cache.nodes()],
            held_locks=self.prefix_tree.held_locks,
            is_idle=self.engine.is_idle,
        )

    def rank_views(self, step: int) -> Sequence[RankView]:
        """Every stage after iteration ``step``, the driver first."""
        return [
            RankView(
                rank=stage.stage.name,
                step=step,
                is_driver=stage.stage.is_first,
                stats=_stats(stage),
                held={FULL_POOL: stage.holds.page_count},
                held_rows=stage.holds.row_count,
                queues=_queues(stage),
                is_paused=stage.paused is not None,
            )
            for stage in self._stages
        ]

    def rank_differences(self) -> Mapping[str, str]:
        """What is not alike on a stage and on the driver, by the stage's name."""
        driver, *others = self._stages
        wanted = _fingerprint(driver)
        different = [stage for stage in others if _fingerprint(stage) != wanted]
        if not different:
            return {}
        mine, *_ = views = self.rank_views(0)
        found = {view.rank: "; ".join(view.differences(mine)) for view in views}
        return {
            stage.stage.name: found[stage.stage.name] or "its slots have other requests"
            for stage in different
        }


def _fingerprint(stage: PipelineScheduler) -> tuple[object, ...]:
    """What has to be alike on every stage, cheap enough for every iteration."""
    tree, chunked = stage.tree_cache, stage.chunked_req
    return (
        stage.token_to_kv_pool_allocator.available_size(),
        tree.evictable_size(),
        tree.protected_size(),
        stage.req_to_token_pool.available_size(),
        stage.holds.page_count,
        stage.holds.row_count,
        stage.paused,
        None if chunked is None else chunked.rid,
        [req.rid for req in stage.waiting_queue],
        [[(req.rid, len(req.output_ids)) for req in slot.reqs] for slot in stage.running_mbs],
        len(stage.in_flight),
    )


def _named(name: str, stage: PipelineScheduler) -> str:
    return name if stage.stage.is_first else f"{name}@{stage.stage.name}"


def _rows(stages: Sequence[PipelineScheduler]) -> RowAudit:
    """The rows of all stages in one numbering: those of stage k begin at ``k * rows of a stage``."""
    free: list[int] = []
    held: list[int] = []
    by_request: dict[str, int] = {}
    size = stages[0].req_to_token_pool.size
    for stage in stages:
        first = stage.stage.index * size
        claims = row_claims(stage)
        free += [first + row for row in claims.free_rows]
        held += [first + row for row in claims.held_rows]
        suffix = "" if stage.stage.is_first else f"@{stage.stage.name}"
        for rid, row in claims.request_rows.items():
            by_request[rid + suffix] = first + row
    return RowAudit(0, size * len(stages), free, held, by_request)


def _stats(stage: PipelineScheduler) -> dict[str, int]:
    allocator, page_size = stage.token_to_kv_pool_allocator, stage.page_size
    return {
        "kv_pool_free": allocator.available_size() // page_size,
        "kv_pool_total": allocator.num_pages,
        "kv_pool_evictable": stage.tree_cache.evictable_size() // page_size,
        "page_size": page_size,
        "req_pool_free": stage.req_to_token_pool.available_size(),
        "req_pool_total": stage.req_to_token_pool.size,
    }


def _queues(stage: PipelineScheduler) -> QueueView:
    chunked = stage.chunked_req
    return QueueView(
        waiting=tuple([req.rid for req in stage.waiting_queue]),
        running=tuple([req.rid for req in stage.decoding()]),
        chunked=() if chunked is None else (chunked.rid,),
    )

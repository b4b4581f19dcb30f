"""A script as users of SGLang's own harness have it: unittest, static methods, its attribute names."""

from __future__ import annotations

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_chunked import LIFECYCLE_STAGES, advance_to_lifecycle_stage, run_until_finished
from scripted_core import ScriptedContext, ScriptedTestCase
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

_CHUNK_SIZE = 64
_PROMPT_LEN = 2 * _CHUNK_SIZE + 32
_SHORT_PROMPT_LEN = 20
_LIFECYCLE_MAX_NEW_TOKENS = 8


def _advance_to_stage(r, stage):
    yield from advance_to_lifecycle_stage(
        r, stage, num_middle_chunks=1, max_new_tokens=_LIFECYCLE_MAX_NEW_TOKENS
    )


@pytest.fixture(autouse=True, scope="class")
def _backend(request):
    """The class runs on the engine of ``--scripted-backend``, as all other scripts do."""
    chosen = request.config.getoption("scripted_backend")
    if request.cls is not None and chosen:
        request.cls.BACKEND = chosen[0]


class TestScriptedCore(ScriptedTestCase):
    ENGINE_KWARGS = single_device_kwargs(chunked_prefill_size=_CHUNK_SIZE)

    def test_start_req_auto_rid_and_finishes(self):
        self.server.execute_script(self._script_start_req_auto_rid_and_finishes)

    @staticmethod
    def _script_start_req_auto_rid_and_finishes(t: ScriptedContext):
        r = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=4)
        assert r.rid.startswith("scripted-"), f"unexpected auto rid {r.rid!r}"
        yield from run_until_finished(r)
        assert r.finished, "auto-rid req did not finish"

    def test_start_req_explicit_rid(self):
        self.server.execute_script(self._script_start_req_explicit_rid)

    @staticmethod
    def _script_start_req_explicit_rid(t: ScriptedContext):
        r = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=2, rid="explicit-rid-test")
        assert r.rid == "explicit-rid-test", f"explicit rid not honored: {r.rid!r}"
        yield
        assert t.find_req_by_rid("explicit-rid-test") is not None, (
            "explicit rid not visible to the scheduler after one step"
        )

    def test_pause_retract_at_lifecycle_points_then_resume(self):
        for stage in LIFECYCLE_STAGES:
            with self.subTest(stage=stage):
                self.server.execute_script(
                    self._script_pause_retract_at_stage,
                    args=(stage,),
                )

    @staticmethod
    def _script_pause_retract_at_stage(t: ScriptedContext, stage: str):
        r = t.start_req(prompt_len=_PROMPT_LEN, max_new_tokens=_LIFECYCLE_MAX_NEW_TOKENS)
        yield from _advance_to_stage(r, stage)
        assert r.req is not None, f"stage={stage}: req vanished before pause"

        t.pause_generation(mode="retract")
        yield

        if not r.finished:
            req = r.req
            assert req is not None, f"stage={stage}: req vanished"
            assert req in t.scheduler.waiting_queue, (
                f"stage={stage}: pause(retract) should park the req back in waiting_queue"
            )
            output_tokens_after_pause = len(req.output_ids)
            for _ in range(3):
                yield
                req = r.req
                assert req is not None
                assert len(req.output_ids) == output_tokens_after_pause, (
                    f"stage={stage}: paused engine advanced the req "
                    f"({len(req.output_ids) if req is not None else None} output tokens, "
                    f"expected {output_tokens_after_pause})"
                )

            t.continue_generation()
            yield from run_until_finished(r)

        assert r.finished, f"stage={stage}: req did not finish after pause/continue"

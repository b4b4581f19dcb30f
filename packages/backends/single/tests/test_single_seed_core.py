"""The core scripts of SGLang's own harness in its own style: unittest, static methods, its names."""

from __future__ import annotations

import pytest
from scripted_backend_single import single_device_kwargs
from scripted_chunked import advance_to_nth_chunk, run_until, run_until_finished
from scripted_core import ScriptedContext, ScriptedTestCase
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=1, stage="single", runner_config="cpu")
register_cpu_ci(est_time=25, stage="single-sglang", runner_config="cpu")

_CHUNK_SIZE = 64
_SHORT_PROMPT_LEN = 20


@pytest.fixture(autouse=True, scope="class")
def _backend(request):
    """The classes run on the engine of ``--scripted-backend``, as all other scripts do."""
    chosen = request.config.getoption("scripted_backend")
    if request.cls is not None and chosen:
        request.cls.BACKEND = chosen[0]


def _script_noop(t: ScriptedContext):
    yield


class TestScriptedRuntimeCore(ScriptedTestCase):
    ENGINE_KWARGS = single_device_kwargs(chunked_prefill_size=_CHUNK_SIZE)

    def test_noop_again_and_again(self):
        for _ in range(3):
            self.server.execute_script(_script_noop)

    def test_find_req_by_rid_hit_and_miss(self):
        self.server.execute_script(self._script_find_req_by_rid)

    @staticmethod
    def _script_find_req_by_rid(t: ScriptedContext):
        r = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=4, rid="find-me")
        yield
        found = t.find_req_by_rid("find-me")
        assert found is not None
        assert found is r.req
        assert found.rid == "find-me"
        assert list(found.origin_input_ids) == [1] * _SHORT_PROMPT_LEN
        assert t.find_req_by_rid("no-such-rid") is None
        yield from run_until_finished(r)
        assert t.find_req_by_rid("find-me") is None, "a finished req is still live"

    def test_is_finished_semantics(self):
        self.server.execute_script(self._script_is_finished)

    @staticmethod
    def _script_is_finished(t: ScriptedContext):
        r = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=4)
        assert not t.is_finished(r.rid)
        yield
        assert not t.is_finished(r.rid), "running is not finished"
        yield from run_until_finished(r)
        assert t.is_finished(r.rid)
        yield
        assert t.is_finished(r.rid), "an end is forgotten"
        assert not t.is_finished("no-such-rid"), "a rid that was never seen has not finished"

    def test_handle_req_and_finished(self):
        self.server.execute_script(self._script_handle)

    @staticmethod
    def _script_handle(t: ScriptedContext):
        r = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=4)
        yield
        assert r.req is not None
        assert not r.req.finished()
        assert not r.finished
        yield from run_until_finished(r)
        assert r.finished
        assert r.req is None

    def test_is_chunking(self):
        self.server.execute_script(self._script_is_chunking)

    @staticmethod
    def _script_is_chunking(t: ScriptedContext):
        short = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=2)
        yield
        assert not short.is_chunking
        yield from run_until_finished(short)
        r = t.start_req(prompt_len=3 * _CHUNK_SIZE, max_new_tokens=2)
        yield from run_until(r, lambda h: h.is_chunking, max_steps=5)
        assert t.scheduler.chunked_req is r.req
        yield from run_until_finished(r)
        assert not r.is_chunking
        assert t.scheduler.chunked_req is None

    def test_abort_all(self):
        self.server.execute_script(self._script_abort_all)

    @staticmethod
    def _script_abort_all(t: ScriptedContext):
        started = [
            t.start_req(prompt_len=n, max_new_tokens=200, ignore_eos=True)
            for n in (_SHORT_PROMPT_LEN, 3 * _CHUNK_SIZE, _SHORT_PROMPT_LEN)
        ]
        yield from advance_to_nth_chunk(started[1], 1)
        t.abort_all()
        for _ in range(8):
            yield
        assert all(r.finished for r in started), [str(r) for r in started]
        assert {r.status for r in started} == {"aborted"}
        assert t.is_fully_idle
        assert t.scheduler.waiting_queue == []

    def test_a_finish_and_its_reason_reach_handle_and_client(self):
        self.server.execute_script(self._script_finish)

    @staticmethod
    def _script_finish(t: ScriptedContext):
        r = t.start_req(prompt_len=_SHORT_PROMPT_LEN, max_new_tokens=3, ignore_eos=True)
        yield from run_until_finished(r)
        assert r.status == "finished"
        assert r.finish_reason.kind == "length"
        assert len(r.output_ids) == 3
        assert r.client.wait_ended(5.0)
        assert r.client.finish_reason.kind == "length"
        assert r.client.token_ids == r.output_ids


class TestScriptedChunkedPrefill(ScriptedTestCase):
    ENGINE_KWARGS = single_device_kwargs(chunked_prefill_size=_CHUNK_SIZE)

    def test_chunked_prefill_smoke(self):
        self.server.execute_script(self._script_smoke)

    @staticmethod
    def _script_smoke(t: ScriptedContext):
        r = t.start_req(prompt_len=4 * _CHUNK_SIZE + 7, max_new_tokens=4)
        yield from run_until_finished(r)
        assert r.chunks_done == 5

    def test_chunk_boundary_offsets(self):
        for chunks in (1, 2, 3):
            for offset in (-1, 0, 1):
                with self.subTest(chunks=chunks, offset=offset):
                    self.server.execute_script(self._script_boundary, args=(chunks, offset))

    @staticmethod
    def _script_boundary(t: ScriptedContext, chunks: int, offset: int):
        prompt_len = chunks * _CHUNK_SIZE + offset
        r = t.start_req(prompt_len=prompt_len, max_new_tokens=2, ignore_eos=True)
        yield from run_until_finished(r)
        batches = -(-prompt_len // _CHUNK_SIZE)
        assert r.chunks_done == (batches if batches > 1 else 0), f"{prompt_len} tokens"
        assert len(r.output_ids) == 2

"""The kernels for a GPU do what array operations do, bit by bit; without a GPU they are interpreted."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from scripted_canary.settings import RealData
from scripted_canary.shadow import SlotShadow
from scripted_canary.truth import RowTruth
from scripted_core.kv_watch import KvBatch, KvStorageView
from scripted_registry.ci import register_cpu_ci

torch = pytest.importorskip("torch")
IS_ON_GPU = torch.cuda.is_available()
if not IS_ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
pytest.importorskip("triton", reason="needs the capability 'triton'")
from scripted_canary.device_arrays import DeviceArrays  # noqa: E402
from scripted_canary.triton_work import TritonWork, triton_work  # noqa: E402
from scripted_canary.work import ArrayWork, tokens_of  # noqa: E402

register_cpu_ci(est_time=20, stage="unit", runner_config="cpu")

DEVICE = torch.device("cuda" if IS_ON_GPU else "cpu")
SLOTS, ROWS, POSITIONS = 300, 6, 150
KINDS = {
    "halves": lambda slots: torch.randn(slots, 2, 12, device=DEVICE).to(torch.bfloat16),
    "three words": lambda slots: torch.randn(slots, 3, device=DEVICE),
    "bytes": lambda slots: torch.randint(255, (slots, 19), device=DEVICE).to(torch.uint8),
}


class Side:
    """A shadow and the truth, under one kind of work."""

    def __init__(self, kind, *, table, buffers, view):
        arrays = DeviceArrays(DEVICE)
        self.arrays, self.truth = arrays, RowTruth(rows=ROWS, positions=POSITIONS, arrays=arrays)
        self.shadow = SlotShadow(view(buffers), real_data=self.real_data, arrays=arrays)
        if kind is TritonWork:
            self.work = TritonWork(table=table, truth=self.truth, device=DEVICE)
        else:
            self.work = ArrayWork(table=table, truth=self.truth, arrays=arrays)

    real_data = RealData.ALL

    def forward(self, batch, next_ids):
        """What was seen before it, and what is kept behind it."""
        rows, starts = self.arrays.whole(batch.rows), self.arrays.whole(batch.starts)
        self.truth.learn(batch, rows.tolist(), starts.tolist())
        tokens = tokens_of(batch, rows=rows, starts=starts, arrays=self.arrays)
        fed = self.work.look_up(tokens)
        masks = [fed.wrong_tokens, fed.wrong_places]
        seen = {"heads": fed.heads, "expected": fed.expected, "places": fed.table_slots}
        if batch.longest:
            found = self.work.read(self.shadow, tokens, longest=batch.longest)
            masks.append(found.wrong)
            live = found.slots > -(1 << 61)  # kernels leave out what nobody reads
            seen |= {"wrong": found.wrong, "sums": found.sums, "slots": found.slots}
            seen["chains"] = found.expected
            if found.hashes is not None:
                seen["hashes"] = found.hashes
            seen["live"] = live
        seen["flag"] = self.work.flag(masks).read() != 0
        counts = None if batch.counts is None else self.arrays.whole(batch.counts)
        self.work.record([self.shadow], fed)
        self.work.chosen(fed, counts, next_ids)
        return seen


class Pair:
    """The same forwards under both kinds of work."""

    def __init__(self, kind, *, real_data, window=None, mapped=False):
        torch.manual_seed(7)
        self.table = torch.randperm(ROWS * POSITIONS, device=DEVICE).reshape(ROWS, POSITIONS)
        slots = ROWS * POSITIONS
        mapping = torch.randperm(slots, device=DEVICE) if mapped else None
        self.buffers = (KINDS[kind](slots), KINDS[kind](slots))

        def view(buffers):
            return KvStorageView(name="full", buffers=buffers, mapping=mapping, window=window)

        class Chosen(Side):
            pass

        Chosen.real_data = real_data
        self.seen_table = self.table.int()
        self.sides = [
            Chosen(kind, table=self.seen_table, buffers=self.buffers, view=view)
            for kind in (ArrayWork, TritonWork)
        ]
        self.tokens = torch.randint(50_000, (ROWS, POSITIONS + 9), device=DEVICE)
        self.names = [object() for _ in range(ROWS)]

    def forward(self, rows, starts, counts, *, spoil=lambda batch: None):
        """One forward; how both saw it, after they agreed on everything."""
        of = [(row, start + i) for row, start, n in zip(rows, starts, counts, strict=True)
              for i in range(n)]  # fmt: skip
        at = tuple(torch.tensor(axis, device=DEVICE) for axis in zip(*of, strict=True))
        told = self.tokens.tolist()
        batch = KvBatch(
            requests=[self.names[row] for row in rows],
            rids=lambda: [f"r{row}" for row in rows],
            rows=torch.tensor(rows, device=DEVICE),
            starts=torch.tensor(starts, device=DEVICE),
            longest=max(starts),
            counts=None if set(counts) == {1} else counts,
            input_ids=self.tokens[at].clone(),
            out_slots=self.table[at].clone(),
            tokens_of=lambda index, start, end: told[rows[index]][start:end],
            next_known=True,
        )
        spoil(batch)
        ends = torch.tensor([s + n for s, n in zip(starts, counts, strict=True)], device=DEVICE)
        next_ids = self.tokens[batch.rows, ends]
        by_arrays, by_triton = (side.forward(batch, next_ids) for side in self.sides)
        live = by_triton.pop("live", None)
        by_arrays.pop("live", None)
        assert by_arrays.keys() == by_triton.keys()
        for name in by_arrays.keys() - {"flag"}:
            one, other = by_arrays[name], by_triton[name]
            if name in ("sums", "slots", "chains", "hashes"):
                one, other = one[live], other[live]
            assert one.tolist() == other.tolist(), name
        assert by_arrays["flag"] == by_triton["flag"]
        one, other = self.sides
        assert int(one.work.verified) == int(other.work.verified)
        for name in ("heads", "chains", "sums"):
            assert torch.equal(getattr(one.shadow, name), getattr(other.shadow, name)), name
        assert torch.equal(one.truth.heads, other.truth.heads)
        assert torch.equal(one.truth.chains, other.truth.chains)
        return SimpleNamespace(
            wrong=by_triton["wrong"].nonzero().flatten().tolist() if "wrong" in by_triton else [],
            is_wrong=bool(by_triton["flag"]),
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("real_data", RealData)
@pytest.mark.parametrize("pool", [{}, {"window": 8, "mapped": True}], ids=["full", "window"])
def test_kernels_and_array_operations_agree(kind, real_data, pool):
    pair = Pair(kind, real_data=real_data, **pool)
    assert not pair.forward([4, 0, 2], [0, 0, 0], [130, 1, 40]).is_wrong
    assert not pair.forward([0, 2], [1, 40], [17, 3]).is_wrong
    for step in range(3):
        seen = pair.forward([4, 0, 2], [130 + step, 18 + step, 43 + step], [1, 1, 1])
        assert not seen.is_wrong
        assert seen.wrong == []
    broken = int(pair.sides[1].shadow.own(pair.table[0:1, 20])[0])
    content = pair.sides[1].shadow.buffers[0]
    content[broken, 0] ^= 0x10
    seen = pair.forward([4, 0, 2], [133, 21, 46], [1, 1, 1])
    if real_data is RealData.NONE:
        assert not seen.is_wrong
    else:
        assert seen.wrong == [133 + 20]  # of the second of three requests, the longest has 133
        assert seen.is_wrong


def test_what_is_fed_and_where_it_goes_is_compared():
    pair = Pair("halves", real_data=RealData.PARTIAL)
    pair.forward([1, 3], [0, 0], [20, 9])

    def another_token(batch):
        batch.input_ids[1] += 1

    def another_place(batch):
        batch.out_slots[0] = pair.table[5, 5]

    for spoil in (another_token, another_place):
        assert pair.forward([1, 3], [20, 9], [1, 1], spoil=spoil).is_wrong
    assert not pair.forward([1, 3], [20, 9], [1, 1]).is_wrong


def test_a_row_of_another_request_is_seen():
    pair = Pair("halves", real_data=RealData.NONE)
    pair.forward([1, 3], [0, 0], [20, 20])
    pair.seen_table[1, 4:9] = pair.seen_table[3, 4:9]
    seen = pair.forward([1, 3], [20, 20], [1, 1])
    assert seen.wrong == [4, 5, 6, 7, 8]


@pytest.mark.skipif(IS_ON_GPU, reason="needs the capability 'no GPU'")
def test_without_a_gpu_there_is_no_such_work():
    truth = SimpleNamespace()
    assert triton_work(table=torch.zeros(2, 2), truth=truth, arrays=DeviceArrays(DEVICE)) is None


def test_a_script_finds_by_kernels_what_it_finds_without(monkeypatch, everything_is_found):
    def by_triton(*, table, truth, arrays):
        return TritonWork(table=table, truth=truth, device=DEVICE)

    monkeypatch.setattr("scripted_canary.group.arrays_for", lambda buffer: DeviceArrays(DEVICE))
    monkeypatch.setattr("scripted_canary.group.work_for", by_triton)
    everything_is_found(device=DEVICE.type)

"""Both kinds of arrays do the same: in host memory with NumPy, on a device with torch."""

from __future__ import annotations

import numpy as np
import pytest
from scripted_canary.hashing import SEED, ByteHash, ChainPowers, head_of, word_of
from scripted_canary.host_arrays import HostArrays, arrays_for
from scripted_canary.settings import RealData
from scripted_core.errors import ConfigError
from scripted_registry.ci import register_cpu_ci

torch = pytest.importorskip("torch")
from scripted_canary.device_arrays import DeviceArrays  # noqa: E402

register_cpu_ci(est_time=10, stage="unit", runner_config="cpu")
BUFFERS = {
    "words": lambda: torch.arange(40 * 4, dtype=torch.int64).reshape(40, 4) * 0x123456789ABCDEF,
    "one word": lambda: torch.arange(40, dtype=torch.int64).reshape(40, 1) * 0x123456789ABCDEF,
    "floats": lambda: torch.randn(40, 2, 5),
    "halves": lambda: torch.randn(40, 3, 7, dtype=torch.float32).to(torch.bfloat16),
    "bytes": lambda: torch.arange(40 * 19, dtype=torch.int64).reshape(40, 19).to(torch.uint8),
}


def device():
    return DeviceArrays(torch.device("cpu"))


@pytest.mark.parametrize("kind", BUFFERS)
@pytest.mark.parametrize("real_data", [RealData.PARTIAL, RealData.ALL])
def test_a_slot_hashes_the_same_and_every_hashed_byte_counts(kind, real_data):
    buffer = BUFFERS[kind]()
    hashes = [
        ByteHash([buffer], real_data=real_data, arrays=arrays)
        for arrays in (HostArrays(), device())
    ]
    slots = np.array([3, 39, 0, 3])
    on_host, on_device = hashes[0].of(slots), hashes[1].of(torch.as_tensor(slots))
    assert on_host.tolist() == on_device.tolist()
    content = HostArrays().as_bytes(buffer)
    hashed = min(16, content.shape[1]) if real_data is RealData.PARTIAL else content.shape[1]
    for at in range(content.shape[1]):
        content[3, at] ^= 0x80
        changed = hashes[0].of(slots) != on_host
        assert changed.tolist() == ([True, False, False, True] if at < hashed else [False] * 4)
        content[3, at] ^= 0x80
    assert hashes[0].of(slots).tolist() == on_host.tolist()


def test_a_chain_in_one_run_is_a_chain_token_by_token():
    for arrays in (HostArrays(), device()):
        powers = ChainPowers(30, arrays=arrays)
        words = word_of(head_of(arrays.arange(20) * 7 + 3, arrays.arange(20)))
        whole = powers.run(arrays.whole([SEED]), words)
        chain = arrays.whole([SEED])
        for place in range(20):
            chain = chain * powers.growth[1:2] + words[place : place + 1]
            assert int(chain[0]) == int(whole[place])


def test_what_lies_in_host_memory_is_not_copied():
    buffer = torch.zeros(8, 4, dtype=torch.bfloat16)
    arrays = arrays_for(buffer)
    assert isinstance(arrays, HostArrays)
    content = arrays.as_bytes(buffer)
    buffer[2, 1] = 1.0
    assert content[2].any()
    assert not content[3].any()
    arrays.flip(content, 3, 0, 0x40)
    assert float(buffer[3, 0]) != 0


def test_a_buffer_in_pieces_is_refused():
    for arrays in (HostArrays(), device()):
        with pytest.raises(ConfigError, match="in one piece"):
            arrays.as_bytes(torch.zeros(8, 8).t())
    with pytest.raises(ConfigError, match="in one piece"):
        HostArrays().as_bytes(np.zeros((8, 8))[:, ::2])


def test_a_table_may_name_slots_that_do_not_exist():
    values = np.arange(8)
    named = np.array([-3, 5, 900])
    assert HostArrays().take(values, named).tolist() == [0, 5, 7]
    buffer = np.arange(32).reshape(8, 4)
    for real_data in (RealData.PARTIAL, RealData.ALL):
        byte_hash = ByteHash([buffer], real_data=real_data, arrays=HostArrays())
        assert byte_hash.of(named).tolist() == byte_hash.of(np.array([0, 5, 7])).tolist()


def test_both_find_the_same_words_and_flags():
    for arrays in (HostArrays(), device()):
        matrix = arrays.arange(12).reshape(3, 4)
        rows = arrays.whole([2, 0])
        assert arrays.block(matrix, rows, 1, 3).tolist() == [9, 10, 1, 2]
        mask = arrays.whole([0, 1, 0]) > 0
        assert arrays.where(mask) == [1]
        assert arrays.flag([mask & (mask ^ mask), mask]).read()
        assert not arrays.flag([mask ^ mask]).read()
        assert arrays.repeat(rows, arrays.whole([1, 2])).tolist() == [2, 0, 0]


def test_on_a_device_the_same_is_found_one_forward_later(monkeypatch, everything_is_found):
    monkeypatch.setattr("scripted_canary.group.arrays_for", lambda buffer: device())
    everything_is_found()

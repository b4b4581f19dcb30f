"""In float32 a token's logits do not depend, in a single bit, on how its batch was put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_registry.ci import register_cpu_ci

register_cpu_ci(est_time=40, stage="reference", runner_config="cpu")

torch = pytest.importorskip("torch", reason="torch is not installed; the tiny model needs it")

Prompt = Callable[[object, int], list[int]]

SHAPES = {
    "small": {},
    # Shapes at which the matrix library is known to change its algorithm with the number of rows.
    "wide": {"hidden_size": 128, "intermediate_size": 384, "head_dim": 32, "vocab_size": 1100},
    "one_key_head": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 64},
    "odd": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 52,
        "intermediate_size": 140,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 20,
        "attention_bias": True,
    },
}

LENGTH = 150
SAME = {"rtol": 0, "atol": 0}


@pytest.fixture(params=SHAPES)
def folder(request: pytest.FixtureRequest, config_folder: Callable[..., Path]) -> Path:
    return config_folder(**SHAPES[request.param])


@pytest.fixture
def alone(lab: Any, folder: Path, device: str, random_prompt: Prompt) -> Any:
    """The logits of each position of the prompt, computed one request and one chunk at a time."""
    it = lab(folder, device=device)
    return it.model.logits(it.batch((it.request(random_prompt("p", LENGTH)), LENGTH)))


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks(
    chunk: int,
    page_size: int,
    alone: Any,
    lab: Any,
    folder: Path,
    device: str,
    random_prompt: Prompt,
) -> None:
    it = lab(folder, device=device, page_size=page_size)
    req = it.request(random_prompt("p", LENGTH))
    rows = []
    for start in range(0, LENGTH, chunk):
        rows.append(it.model.logits(it.batch((req, min(chunk, LENGTH - start)))))
    torch.testing.assert_close(torch.cat(rows), alone, **SAME)


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_neighbours(
    place: int,
    page_size: int,
    alone: Any,
    lab: Any,
    folder: Path,
    device: str,
    random_prompt: Prompt,
) -> None:
    it = lab(folder, device=device, page_size=page_size)
    lengths = [1, 5, 8, 33, 64, 200, 311]
    parts = [(it.request(random_prompt(n, n)), n) for n in lengths]
    parts.insert(place, (it.request(random_prompt("p", LENGTH)), LENGTH))
    logits = it.model.logits(it.batch(*parts))
    start = sum(lengths[:place])
    torch.testing.assert_close(logits[start : start + LENGTH], alone, **SAME)


@pytest.mark.parametrize("cached", [1, 16, 149])
def test_a_cached_prefix(
    cached: int, alone: Any, lab: Any, folder: Path, device: str, random_prompt: Prompt
) -> None:
    it = lab(folder, device=device)
    first = it.request(random_prompt("p", cached))
    it.extend((first, cached))
    req = it.request(random_prompt("p", LENGTH), prefix=it.slots(first))
    logits = it.model.logits(it.batch((req, LENGTH - cached)))
    torch.testing.assert_close(logits, alone[cached:], **SAME)


def test_decode_is_prefill(
    alone: Any, lab: Any, folder: Path, device: str, random_prompt: Prompt
) -> None:
    """Fed token by token among decoding neighbours, in the company of longer and shorter contexts."""
    it = lab(folder, device=device)
    ids = random_prompt("p", LENGTH)
    lengths = [1, 30, 63, 64, 200, 311, 90, 128, 400]
    neighbours = [it.request(random_prompt(n, n)) for n in lengths]
    req = it.request(ids[:100])
    it.extend((req, 100), *zip(neighbours, lengths, strict=True))
    reqs = [*neighbours[:5], req, *neighbours[5:]]
    for other in neighbours:
        other.output_ids = [9]
    for position in range(100, LENGTH):
        req.output_ids.append(ids[position])
        logits = it.model.logits(it.decode_batch(reqs))
        torch.testing.assert_close(logits[5], alone[position], **SAME)


def test_what_lies_behind_a_context_is_not_read(
    alone: Any, lab: Any, folder: Path, device: str, random_prompt: Prompt
) -> None:
    """Not even with weight zero: zero times NaN would be NaN."""
    it = lab(folder, device=device)
    for stored in (*it.model.kv.keys, *it.model.kv.values):
        stored[2000:] = float("nan")
    it.rows.req_to_token[:] = 2000  # stale entries of an earlier owner of the row
    neighbour = it.request(random_prompt(0, 200))
    req = it.request(random_prompt("p", LENGTH))
    logits = it.model.logits(it.batch((neighbour, 200), (req, LENGTH)))
    torch.testing.assert_close(logits[200:], alone, **SAME)


def test_threads_make_no_difference(
    lab: Any, config_folder: Callable[..., Path], random_prompt: Prompt
) -> None:
    """Also in operations large enough for torch to divide them among threads."""
    ids = random_prompt("p", 1300)
    folder = config_folder(num_hidden_layers=1, num_attention_heads=6, intermediate_size=5000)
    found = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            it = lab(folder, context_length=1400)
            found.append(it.model.logits(it.batch((it.request(ids), len(ids)))))
            assert torch.get_num_threads() == count, "the process keeps its setting"
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, **SAME)

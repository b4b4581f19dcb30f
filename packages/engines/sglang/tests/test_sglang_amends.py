"""What the adapter makes up for in SGLang, each on stand-ins, and that it can be told not to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scripted_core.errors import CapabilityMissing, ConfigError
from scripted_registry import EngineConfig, EngineMode
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import _compat, server
from scripted_sglang._compat.as_shipped import ENV_AS_SHIPPED
from scripted_sglang._compat.pinned_memory import do_without_pinned_memory
from scripted_sglang._compat.torch_native import read_windows

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")

torch = pytest.importorskip("torch", reason="torch is not installed")


# -- windows -------------------------------------------------------------------------------------


def _backend(mapping: list[int]) -> Any:
    return SimpleNamespace(
        token_to_kv_pool=SimpleNamespace(full_to_swa_index_mapping=torch.tensor(mapping))
    )


def _slots_read(backend: Any, *, window: int | None) -> list[list[int]]:
    """The slots of each request that SGLang would read keys from."""
    table = torch.tensor([[0, 0, 0, 0], [5, 6, 7, 99], [3, 4, 0, 0]])

    def original(backend: Any, *args: Any, **kwargs: Any) -> list[list[int]]:
        _, _, _, _, slots, rows, lengths, *rest = args
        assert rest == ["prefix lengths"]
        return [
            slots[row, :length].tolist() for row, length in zip(rows, lengths.tolist(), strict=True)
        ]

    arguments = ("q", "o", "k", "v", table, torch.tensor([2, 1]), torch.tensor([2, 3]))
    return read_windows(original, backend, *arguments, "prefix lengths", sliding_window_size=window)


def test_a_window_layer_reads_its_own_slots_and_another_those_of_the_full_pool() -> None:
    backend = _backend([0, 0, 0, 30, 40, 0, 60, 70, *[0] * 100])
    assert _slots_read(backend, window=16) == [[30, 40], [0, 60, 70]]
    assert _slots_read(backend, window=None) == [[3, 4], [5, 6, 7]]
    assert _slots_read(SimpleNamespace(token_to_kv_pool=SimpleNamespace()), window=16) == [
        [3, 4],
        [5, 6, 7],
    ]


def test_as_shipped_windows_are_read_as_sglang_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_AS_SHIPPED, "1")
    assert _slots_read(_backend([0] * 110), window=16) == [[3, 4], [5, 6, 7]]


def test_slots_of_a_window_are_those_that_are_still_mapped() -> None:
    mapping = torch.tensor([0, 4, 0, 2, -1])
    scheduler = SimpleNamespace(
        token_to_kv_pool_allocator=SimpleNamespace(full_to_swa_index_mapping=mapping)
    )
    assert _compat.window_slots(scheduler, np.array([1, 2, 3])).tolist() == [4, 2]


def test_a_hybrid_model_has_two_allocators_and_two_figures_of_its_tree() -> None:
    plain = SimpleNamespace(token_to_kv_pool_allocator=object())
    assert list(_compat.kv_allocators(plain)) == ["full"]
    hybrid = SimpleNamespace(full_attn_allocator="f", swa_attn_allocator="s")
    allocators = _compat.kv_allocators(SimpleNamespace(token_to_kv_pool_allocator=hybrid))
    assert allocators == {"full": "f", "swa": "s"}
    tree = SimpleNamespace(
        disable=False,
        evictable_size=lambda: 1,
        full_evictable_size=lambda: 2,
        swa_evictable_size=lambda: 3,
    )

    def figures(*, is_hybrid: bool) -> list[int]:
        return [
            _compat.evictable_tokens(tree, pool=pool, is_hybrid=is_hybrid)
            for pool in ("full", "swa")
        ]

    assert figures(is_hybrid=True) == [2, 3]
    assert figures(is_hybrid=False)[0] == 1
    tree.disable = True
    assert figures(is_hybrid=True) == [0, 0]


# -- pinned memory -------------------------------------------------------------------------------


def test_without_an_accelerator_nothing_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.accelerator.is_available():
        pytest.skip("needs a machine without an accelerator")
    for name in ("tensor", "zeros", "ones", "empty", "full"):
        monkeypatch.setattr(torch, name, getattr(torch, name))
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.pin_memory)
    with monkeypatch.context() as shipped:
        shipped.setenv(ENV_AS_SHIPPED, "1")
        do_without_pinned_memory()
        with pytest.raises(RuntimeError, match="pin_memory"):
            torch.tensor([1, 2], pin_memory=True)
    do_without_pinned_memory()
    assert torch.tensor([1, 2], pin_memory=True).tolist() == [1, 2]
    assert torch.zeros((2,), dtype=torch.int32, pin_memory=True).pin_memory().tolist() == [0, 0]


# -- ends by length ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "known"),
    [("0.5.23", True), ("0.5.24.post1", True), ("0.5.20", False), ("0.5.15", False), ("x", False)],
)
def test_since_which_release_an_end_by_length_is_known_early(version: str, known: bool) -> None:
    assert _compat.knows_length_ends_early(version) is known


# -- the launch ----------------------------------------------------------------------------------


def _config(**kwargs: Any) -> EngineConfig:
    return EngineConfig(engine="sglang", kwargs=kwargs, mode=EngineMode.SERVER)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("A=1", "is not a mapping"),
        ({"A": 1}, "'A'=1 is not a text"),
        ({"SCRIPTED_WIRE": "x"}, "'SCRIPTED_WIRE' carries the session"),
    ],
)
def test_an_environment_that_cannot_be_set_is_refused(env: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        server.server_launch(_config(env=env))


def test_a_release_without_windows_on_a_cpu_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(server, "source_folder", lambda: tmp_path)
    with pytest.raises(CapabilityMissing, match="'tiny-swa' needs the capability 'swa'"):
        server.server_launch(_config(model_path="tiny-swa"))

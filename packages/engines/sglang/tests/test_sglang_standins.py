from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripted_registry.ci import register_cpu_ci
from scripted_sglang import standins

register_cpu_ci(est_time=1, stage="unit", runner_config="cpu")
register_cpu_ci(est_time=1, stage="single-sglang", runner_config="cpu")

_NEEDS_TORCH = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="needs the capability 'torch'"
)
_ALL = ("sgl_kernel", "torchvision", "triton")


def _run(code: str, *names: str) -> subprocess.CompletedProcess[str]:
    entries = [str(standins.standin_path() / name) for name in names]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(entries), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )


def _answer(code: str, *names: str) -> str:
    done = _run(code, *names)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _fake_package(folder: Path, name: str) -> Path:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    return folder


def test_every_standin_is_one_path_entry_with_one_package() -> None:
    root = standins.standin_path()
    assert standins.STANDINS == _ALL
    for name in standins.STANDINS:
        assert [entry.name for entry in (root / name).iterdir() if entry.is_dir()] == [name]


def test_a_missing_package_is_needed_and_an_installed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(_fake_package(tmp_path, "triton"))])
    assert standins.needed_standins() == ("sgl_kernel", "torchvision")
    assert standins.standin_pythonpath() == (
        standins.standin_path() / "sgl_kernel",
        standins.standin_path() / "torchvision",
    )


def test_nothing_is_needed_where_all_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in _ALL:
        _fake_package(tmp_path, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert standins.needed_standins() == ()
    assert standins.standin_pythonpath() == ()


def test_a_standin_on_the_path_does_not_count_as_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(standins.standin_path() / name) for name in _ALL])
    assert standins.needed_standins() == _ALL


def test_asking_imports_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "triton" not in standins.needed_standins()


def test_triton_kernels_are_defined_and_refuse_to_launch() -> None:
    code = """
import triton, triton.language as tl
from triton.language.extra import libdevice
from triton.runtime.jit import JITFunction

@triton.autotune(configs=[triton.Config({"B": 1}, num_warps=2)], key=["n"])
@triton.jit(do_not_specialize=["n"])
def scale(x, n, B: tl.constexpr):
    return tl.load(x) * n

@triton.jit
def plain(x):
    return x

assert isinstance(plain, JITFunction) and plain.__name__ == "plain"
for launch in (lambda: scale[(1,)], lambda: plain(1)):
    try:
        launch()
    except NotImplementedError as error:
        print(error)
"""
    lines = _answer(code, "triton").splitlines()
    assert len(lines) == 2
    assert "__main__.scale" in lines[0]
    assert "__main__.plain" in lines[1]


@_NEEDS_TORCH
def test_triton_gives_out_pages_as_sglang_does() -> None:
    """Pages 7, 2 and 9 of four slots each: old pages are filled up first, then new ones in order."""
    code = """
import torch, triton
from triton import _page_kernels

def kernel(): ...
kernel.__module__, kernel.__name__ = "sglang.somewhere", "alloc_extend_kernel"
extend = triton.jit(kernel)
assert extend[(2,)] is _page_kernels.alloc_extend
kernel.__name__ = "alloc_decode_kernel"
decode = triton.jit(do_not_specialize=["free_page_ptr"])(kernel)
kernel.__module__ = "elsewhere"
try:
    triton.jit(kernel)[(1,)]
except NotImplementedError as error:
    print(error)
t = torch.tensor
free = t([7, 2, 9])
out = torch.zeros(9, dtype=torch.int64)
extend[(3,)](t([3, 4, 0]), t([9, 5, 2]), t([22, 43, -1]), torch.tensor([7, 2, 9, 5]), out, 4, 4)
print(out.tolist())
out = torch.full((3,), -1)
extend[(2,)](t([2, 0]), t([3, 16]), t([21, -1]), free, out, 2, 4)
print(out.tolist())
out = torch.zeros(3, dtype=torch.int64)
decode[(3,)](t([5, 7, 9]), t([43, 13, 11]), free, out, 4, 4)
print(out.tolist())
out = torch.full((2,), -1)
decode[(2,)](t([5, 5]), t([43, 47]), free[:1], out, 2, 4)
print(out.tolist())
"""
    refused, *slots = _answer(code, "triton").splitlines()
    assert "elsewhere" in refused
    assert slots == [
        "[23, 28, 29, 30, 31, 8, 36, 20, 21]",
        "[22, -1, -1]",
        "[28, 14, 8]",
        "[28, -1]",
    ]


def test_triton_subpackages_are_modules_however_they_are_imported() -> None:
    code = """
from triton import language as tl
from triton.runtime import jit as jit_module
import types
assert isinstance(tl, types.ModuleType) and isinstance(jit_module, types.ModuleType)
print(tl.constexpr(4).value, tl.float32)
"""
    assert _answer(code, "triton") == "4 <stand-in for triton.language.float32>"


def test_triton_host_arithmetic_is_real() -> None:
    code = """
import triton
print([triton.cdiv(n, 4) for n in (0, 1, 4, 5)], [triton.next_power_of_2(n) for n in (0, 1, 5, 8)])
"""
    assert _answer(code, "triton") == "[0, 1, 1, 2] [0, 1, 8, 8]"


def test_triton_errors_can_be_caught_and_knobs_are_absent() -> None:
    code = """
from triton.runtime.autotuner import OutOfResources
from triton.compiler.errors import CompilationError
assert issubclass(OutOfResources, Exception) and issubclass(CompilationError, Exception)
try:
    import triton.knobs
except ImportError:
    print("absent")
"""
    assert _answer(code, "triton") == "absent"


def test_sgl_kernel_operators_import_by_name_and_raise_by_name() -> None:
    code = """
from sgl_kernel import silu_and_mul
try:
    silu_and_mul(1)
except NotImplementedError as error:
    print(error)
try:
    import sgl_kernel.flash_attn
except ImportError:
    print("no submodules")
"""
    lines = _answer(code, "sgl_kernel").splitlines()
    assert "sgl_kernel.silu_and_mul" in lines[0]
    assert lines[1] == "no submodules"


def test_sgl_kernel_copies_kv_slots_even_when_they_overlap() -> None:
    code = """
import numpy as np
from sgl_kernel import copy_all_layer_kv_cache_cpu
layers = [np.arange(12, dtype=np.float32).reshape(4, 3) + 100 * n for n in range(2)]
pointers = np.array([layer.ctypes.data for layer in layers])
strides = np.array([layer.strides[0] for layer in layers])
copy_all_layer_kv_cache_cpu(pointers, strides, np.array([1, 2]), np.array([0, 1]))
print([layer.tolist() for layer in layers])
"""
    rows = [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [9.0, 10.0, 11.0]]
    expected = [rows, [[value + 100 for value in row] for row in rows]]
    assert _answer(code, "sgl_kernel") == str(expected)


def test_torchvision_names_import_and_raise_by_name() -> None:
    code = """
import torchvision
import torchvision.transforms.v2.functional as tvF
from torchvision.io import decode_jpeg
from torchvision.transforms import InterpolationMode, functional
assert InterpolationMode("bicubic") is InterpolationMode.BICUBIC
for call in (tvF.resize, decode_jpeg, functional.resize, torchvision.transforms.Compose):
    try:
        call()
    except NotImplementedError as error:
        print(str(error).split(" was")[0])
"""
    assert _answer(code, "torchvision").splitlines() == [
        "torchvision.transforms.v2.functional.resize",
        "torchvision.io.decode_jpeg",
        "torchvision.transforms.functional.resize",
        "torchvision.transforms.Compose",
    ]

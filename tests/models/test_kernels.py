"""Kernels give what the operations of torch give: those for a CPU, and those for a GPU (without one, interpreted)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.cpu_kernels import CpuKernels, Levels, PagedLevel, build, load_kernels
from parrot_workers.models import load_model, prepare
from parrot_workers.models.lean_layer import LeanKernels, LeanLayer
from torch.nn import functional

from tests.models.packing import PackedReader
from tests.workers.checkpoints import load_plain

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
GPU = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Case:
    """Kernels for a device and a type of tensors."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.device = GPU if name == "triton" else "cpu"
        self.dtype = dtype
        self.kernels = _find(name, dtype)

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(self.device, self.dtype)


def _find(name: str, dtype: torch.dtype) -> LeanKernels:
    if name == "triton":
        pytest.importorskip("triton", reason="comes with the GPU builds of torch")
        from parrot_workers.models.gpu_kernels import TritonKernels

        return TritonKernels()
    if dtype == torch.float16:
        pytest.skip("there are none for float16")
    kernels = load_kernels(dtype)
    if kernels is None:
        pytest.skip("no C++ compiler")
    return kernels


@pytest.fixture(params=[(name, dtype) for name in ("cpu", "triton") for dtype in DTYPES], ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


@pytest.fixture(params=["cpu", "triton"])
def exact(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    """Kernels in float32, which models that are loaded meanwhile run by."""
    case = Case(request.param, torch.float32)
    monkeypatch.setattr(prepare, "find_kernels", lambda device, dtype: case.kernels)
    return case


def _assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within the rounding of a few operations."""
    rounding = 4 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.float(), expected.float(), rtol=rounding, atol=rounding)


@pytest.mark.parametrize(("num_rows", "size"), [(0, 64), (1, 64), (3, 48), (17, 1000)])
def test_norm(case: Case, num_rows: int, size: int) -> None:
    x, weight = case.random(num_rows, size), case.random(size)
    _assert_close(case.kernels.norm(x, weight, 1e-5), functional.rms_norm(x, (size,), weight, 1e-5))


@pytest.mark.parametrize(("num_rows", "size"), [(0, 64), (1, 64), (3, 48), (17, 1000)])
def test_add_and_norm(case: Case, num_rows: int, size: int) -> None:
    x, h, weight = (case.random(*shape) for shape in ((num_rows, size), (num_rows, size), (size,)))
    total, normed = case.kernels.add_norm(x, h, weight, 1e-5)
    assert torch.equal(total, x + h)
    _assert_close(normed, functional.rms_norm(x + h, (size,), weight, 1e-5))


@pytest.mark.parametrize(("num_rows", "size"), [(0, 64), (1, 64), (3, 1500), (17, 1024)])
def test_gate(case: Case, num_rows: int, size: int) -> None:
    gate_up = 3 * case.random(num_rows, 2 * size)
    gate, up = gate_up.float().chunk(2, -1)
    _assert_close(case.kernels.gate(gate_up), functional.silu(gate) * up)


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("has_rotation", [True, False])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
@pytest.mark.parametrize("is_exact", [True, False])
def test_rotate_and_write(case: Case, num_rows: int, has_rotation: bool, has_norm: bool, is_exact: bool) -> None:
    num_qo, num_kv, dim, page_size = 6, 2, 16, 4
    qkv = case.random(num_rows, num_qo + 2 * num_kv, dim)
    weight = case.random(num_qo + num_kv, dim) if has_norm else None
    angles = case.random(num_rows, 1, dim // 2).float()
    cos, sin = angles.cos().repeat(1, 1, 2), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    keys, values = (torch.zeros(5, page_size, num_kv, dim, dtype=case.dtype, device=case.device) for _ in range(2))
    slots = torch.tensor([7, 4, 19, 12, 5][:num_rows], dtype=torch.int64, device=case.device)

    kind = torch.float32 if is_exact else case.dtype
    rotation = (cos.to(kind), sin.to(kind)) if has_rotation else None
    q = case.kernels.rotate_and_write(qkv, weight, 1e-6, rotation, slots, keys, values)

    qk = qkv[:, : num_qo + num_kv].float()
    if weight is not None:
        qk = functional.rms_norm(qk, (dim,), None, 1e-6) * weight.float()
    if rotation is not None:
        qk = qk * rotation[0].float() + qk.roll(dim // 2, -1) * rotation[1].float()
    _assert_close(q, qk[:, :num_qo])
    _assert_close(keys.flatten(0, 1)[slots], qk[:, num_qo:])
    assert torch.equal(values.flatten(0, 1)[slots], qkv[:, num_qo + num_kv :])
    assert not keys.flatten(0, 1)[0].any()  # other slots are as they were
    assert int(keys.flatten(0, 1).any(-1).any(-1).sum()) == num_rows


def _layers(model: Any) -> list[LeanLayer]:
    return [module for module in model.modules() if isinstance(module, LeanLayer)]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "olmo2", "smollm3", "mixtral", "phi3"])
def test_a_model_reads_the_same_by_kernels(exact: Case, checkpoint: Callable[[str], Path], family: str) -> None:
    model = load_model(checkpoint(family), device=exact.device, dtype="float32")
    assert any(layer.attention._kernels is exact.kernels for layer in _layers(model.model)) == (family != "olmo2")
    reader = PackedReader(model, ReferenceBackend(), num_texts=1, max_tokens=32)
    text = list(range(100, 130))
    found = torch.cat([reader.read([(0, text[:20])])[0], reader.read([(0, text[20:])])[0]])
    with torch.inference_mode():
        expected = load_plain(checkpoint(family))(input_ids=torch.tensor([text]), use_cache=False).logits[0]
    torch.testing.assert_close(found.cpu(), expected, rtol=5e-4, atol=5e-4)


class _Broken:
    """Writes no keys and values."""

    def __init__(self, kernels: LeanKernels) -> None:
        self._kernels = kernels

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def rotate_and_write(self, *arguments: Any) -> Any:
        *others, keys, values = arguments
        rotate_and_write: Callable[..., torch.Tensor] = self._kernels.rotate_and_write
        return rotate_and_write(*others, keys.clone(), values.clone())


class _Failing(_Broken):
    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler")


@pytest.mark.parametrize("spoil", [_Broken, _Failing], ids=["wrong", "failing"])
def test_kernels_that_do_not_do_it_are_left_alone(
    exact: Case, checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, spoil: type[_Broken]
) -> None:
    monkeypatch.setattr(prepare, "find_kernels", lambda device, dtype: spoil(exact.kernels))
    model = load_model(checkpoint("llama"), device=exact.device, dtype="float32")
    layers = _layers(model.model)
    assert len(layers) == 2
    assert [layer.attention._kernels for layer in layers] == [None, None]


# -- compiling -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh() -> Iterator[None]:
    """Kernels are looked for anew, now and afterwards."""
    load_kernels.cache_clear()
    yield
    load_kernels.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_a_library_is_compiled_once_for_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _find("cpu", torch.float32)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    library = build.build_library()
    assert library.parent.parent == tmp_path
    written = library.stat().st_mtime_ns
    assert build.build_library().stat().st_mtime_ns == written
    assert [each.name for each in library.parent.iterdir()] == [library.name]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_the_operations_of_torch_are_used(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    assert load_kernels(torch.float32) is None
    model = load_model(checkpoint("llama"), device="cpu", dtype="float32")
    assert [layer.attention._kernels for layer in _layers(model.model)] == [None, None]


def test_there_are_none_for_other_types() -> None:
    assert load_kernels(torch.float16) is None


def test_attention_of_far_scores() -> None:
    """However small or large scores are."""
    kernels = _find("cpu", torch.float32)
    assert isinstance(kernels, CpuKernels)
    keys = torch.tensor([-1e4, 0.0, 1e4]).view(3, 1, 1, 1).expand(3, 1, 1, 16).contiguous()
    for num_rows in (1, 2):
        rows, indptr, pages, lens = (np.array(array, np.int32) for array in ([0, num_rows], [0, 3], [0, 1, 2], [3]))
        levels = Levels([PagedLevel(rows, indptr, pages, lens, page_size=1)])
        q = torch.ones(num_rows, 1, 16)
        out = kernels.attend(q, keys, keys, levels, scale=1.0, softcap=None, window=None)
        assert out[-1].flatten().tolist() == [1e4] * 16

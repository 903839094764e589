"""Kernels give what the operations of torch give. Without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="comes with the GPU builds of torch")

from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.models import load_model, prepare
from parrot_workers.models.gpu_kernels import TritonKernels
from parrot_workers.models.lean_layer import LeanLayer
from torch.nn import functional

from tests.models.packing import PackedReader
from tests.workers.checkpoints import load_plain

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KERNELS = TritonKernels()
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within the rounding of a few operations."""
    rounding = 4 * torch.finfo(found.dtype).eps
    torch.testing.assert_close(found.float(), expected.float(), rtol=rounding, atol=rounding)


def _random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), [(0, 64), (1, 64), (3, 48), (17, 1000)])
def test_add_and_norm(num_rows: int, size: int, dtype: torch.dtype) -> None:
    x, h, weight = (_random(*shape, dtype=dtype) for shape in ((num_rows, size), (num_rows, size), (size,)))
    total, normed = KERNELS.add_norm(x, h, weight, 1e-5)
    assert torch.equal(total, x + h)
    _assert_close(normed, functional.rms_norm(x + h, (size,), weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), [(0, 64), (1, 64), (3, 1500), (17, 1024)])
def test_gate(num_rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = 3 * _random(num_rows, 2 * size, dtype=dtype)
    gate, up = gate_up.float().chunk(2, -1)
    _assert_close(KERNELS.gate(gate_up), functional.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize("has_rotation", [True, False])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_rotate_and_write(num_rows: int, has_rotation: bool, has_norm: bool, dtype: torch.dtype) -> None:
    num_qo, num_kv, dim, page_size = 6, 2, 16, 4
    qkv = _random(num_rows, num_qo + 2 * num_kv, dim, dtype=dtype)
    weight = _random(num_qo + num_kv, dim, dtype=dtype) if has_norm else None
    angles = _random(num_rows, 1, dim // 2, dtype=torch.float32)
    cos, sin = angles.cos().repeat(1, 1, 2), torch.cat([-angles.sin(), angles.sin()], dim=-1)
    keys, values = (torch.zeros(5, page_size, num_kv, dim, dtype=dtype, device=DEVICE) for _ in range(2))
    slots = torch.tensor([7, 4, 19, 12, 5][:num_rows], dtype=torch.int64, device=DEVICE)

    rotation = (cos.to(dtype), sin.to(dtype)) if has_rotation else None
    q = KERNELS.rotate_and_write(qkv, weight, 1e-6, rotation, slots, keys, values)

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


@pytest.fixture
def finds_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "find_kernels", lambda device: KERNELS)


def _layers(model: Any) -> list[LeanLayer]:
    return [module for module in model.modules() if isinstance(module, LeanLayer)]


@pytest.mark.usefixtures("finds_kernels")
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "olmo2", "smollm3", "mixtral", "phi3"])
def test_a_model_reads_the_same_by_kernels(checkpoint: Callable[[str], Path], family: str) -> None:
    model = load_model(checkpoint(family), device=DEVICE, dtype="float32")
    assert any(layer.attention._kernels is KERNELS for layer in _layers(model.model)) == (family != "olmo2")
    reader = PackedReader(model, ReferenceBackend(), num_texts=1, max_tokens=32)
    text = list(range(100, 130))
    found = torch.cat([reader.read([(0, text[:20])])[0], reader.read([(0, text[20:])])[0]])
    with torch.inference_mode():
        expected = load_plain(checkpoint(family))(input_ids=torch.tensor([text]), use_cache=False).logits[0]
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


class _Broken(TritonKernels):
    """Writes no keys and values."""

    def rotate_and_write(
        self,
        qkv: torch.Tensor,
        head_weight: torch.Tensor | None,
        eps: float,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        return super().rotate_and_write(qkv, head_weight, eps, rotation, slots, keys.clone(), values.clone())


class _Failing(TritonKernels):
    def gate(self, gate_up: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no compiler")


@pytest.mark.parametrize("kernels", [_Broken(), _Failing()], ids=["wrong", "failing"])
def test_kernels_that_do_not_do_it_are_left_alone(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, kernels: TritonKernels
) -> None:
    monkeypatch.setattr(prepare, "find_kernels", lambda device: kernels)
    model = load_model(checkpoint("llama"), device=DEVICE, dtype="float32")
    layers = _layers(model.model)
    assert len(layers) == 2
    assert [layer.attention._kernels for layer in layers] == [None, None]

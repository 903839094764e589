"""Projections on a CPU with weights in the layout that oneDNN computes with.

A plain weight is repacked inside of each call. Packed once, a call over 4 to 256 rows takes 10 to 40 % less time; with
fewer rows and in float32 it costs a little more. In place of a plain weight it takes no more memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from parrot_workers.cpu_kernels import WeightStruct, find_block
from parrot_workers.models.memory import give_back
from parrot_workers.models.progress import Report, silent

__all__ = ["PackedLinear", "pack_linears"]

_NUM_ROWS_HINT = 32
_MIN_FLOAT32_ELEMENTS = 500_000
"""In float32 the call itself costs about 12 us more than the plain one, which smaller weights do not win back."""

_MAX_COPIED_SHARE = 0.1
"""A weight that is an embedding as well has to stay; a packed copy may take this share of the model."""


class PackedLinear(nn.Module):
    """A linear layer over a packed weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        # No parameter: nothing but the call below can do anything with it.
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _NUM_ROWS_HINT)
        self.bias = bias
        self._run = torch.ops.mkldnn._linear_pointwise.default
        ops = torch.ops.mkldnn
        address = ops.data_ptr(self.weight)
        block = find_block(weight, address, ops._nbytes(self.weight)) if weight.dtype != torch.float16 else None
        self.blocked: WeightStruct | None = None
        """The weight as our kernels read it, if it lies as they want it."""
        if block is not None:
            bias_address = None if bias is None else bias.data_ptr()
            self.blocked = WeightStruct(address, bias_address, weight.shape[1], weight.shape[0], block)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._run(x, self.weight, self.bias, "none", [], "")
        return result


def pack_linears(model: Any, report: Report = silent) -> int:
    """Replace the linear layers of a model on a CPU where that pays; the others, and other models, stay as they are.

    Returns:
        How many were replaced.
    """
    if not _can_pack(model):
        return 0
    # Names only: who held the layers would hold their plain weights.
    places = [(parent, name) for parent in model.modules() for name in _linear_children(parent)]
    max_copied = _MAX_COPIED_SHARE * sum(parameter.numel() for parameter in model.parameters())
    embedding = model.get_input_embeddings().weight
    num_packed = 0
    for index, (parent, name) in enumerate(places):
        linear = getattr(parent, name)
        if _pays(linear) and (linear.weight is not embedding or linear.weight.numel() <= max_copied):
            packed = PackedLinear(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())
            if _is_equal(packed, linear):
                setattr(parent, name, packed)
                num_packed += 1
                give_back()
        report("pack weights", (index + 1) / len(places))
    return num_packed


def _linear_children(module: nn.Module) -> list[str]:
    return [name for name, child in module.named_children() if type(child) is nn.Linear]


def _pays(linear: nn.Linear) -> bool:
    return linear.weight.dtype != torch.float32 or linear.weight.numel() >= _MIN_FLOAT32_ELEMENTS


def _can_pack(model: Any) -> bool:
    if model.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    ops = torch.ops.mkldnn
    if not (hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")):
        return False
    if model.dtype == torch.bfloat16:
        return bool(ops._is_mkldnn_bf16_supported())
    if model.dtype == torch.float16:
        return bool(ops._is_mkldnn_fp16_supported())
    return bool(model.dtype == torch.float32)


def _is_equal(packed: PackedLinear, linear: nn.Linear) -> bool:
    """Whether both give the same up to rounding."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, linear.in_features, generator=generator).to(linear.weight.dtype)
    expected = functional.linear(x, linear.weight, linear.bias).float()
    error = (packed(x).float() - expected).norm()
    return bool(error <= 32 * torch.finfo(linear.weight.dtype).eps * expected.norm())

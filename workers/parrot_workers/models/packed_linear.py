"""Projections on a CPU with weights in the layout that they are computed with: our own kernels' or oneDNN's.

A plain weight is repacked inside of each call. Packed once for oneDNN, a call over 4 to 256 rows takes 10 to 40 % less
time; with fewer rows and in float32 it costs a little more. In place of a plain weight it takes no more memory. Ours
take less at all sizes, but need a processor with AMX.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from parrot_workers.cpu_kernels import BLOCK, CpuKernels, WeightStruct, find_block, load_kernels, to_blocks
from parrot_workers.models.memory import give_back
from parrot_workers.models.progress import Report, silent

__all__ = ["BlockedLinear", "PackedLinear", "pack_linears"]

_NUM_ROWS_HINT = 32
_NUM_TRIED = 68  # rows: enough for each way in which ours are computed
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


class BlockedLinear(nn.Module):
    """A linear layer over a weight in blocks, by our own kernels.

    Attributes:
        is_paired: Whether blocks of the first and of the second half of the outputs take turns in memory.
    """

    def __init__(self, kernels: CpuKernels, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._kernels = kernels
        self.weight: Tensor = to_blocks(weight)  # no parameter, as above
        self.bias = bias
        self.is_paired = False
        self._shape = weight.shape
        self.blocked = self._describe()

    def pair(self) -> None:
        """Put block i of the second half of the outputs behind block i of the first; what `forward` gives stays."""
        assert self._shape[0] % (2 * BLOCK) == 0
        if self.is_paired:
            return
        self.weight = torch.stack(self.weight.chunk(2), dim=1).flatten(0, 1)
        if self.bias is not None:
            self.bias = torch.stack(self.bias.view(-1, BLOCK).chunk(2), dim=1).flatten()
        self.is_paired = True
        self.blocked = self._describe()

    def forward(self, x: Tensor) -> Tensor:
        out = self._kernels.multiply(x.flatten(0, -2), self.blocked)
        if self.is_paired:
            pairs = out.view(len(out), self._shape[0] // (2 * BLOCK), 2, BLOCK)
            out = pairs.transpose(1, 2).reshape(out.shape)
        return out.view(*x.shape[:-1], self._shape[0])

    def _describe(self) -> WeightStruct:
        bias = None if self.bias is None else self.bias.data_ptr()
        num_outputs, num_inputs = self._shape
        return WeightStruct(self.weight.data_ptr(), bias, num_inputs, num_outputs, BLOCK)


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
    kernels = load_kernels(model.dtype)
    num_packed = 0
    for index, (parent, name) in enumerate(places):
        linear = getattr(parent, name)
        can_copy = linear.weight is not embedding or linear.weight.numel() <= max_copied
        packed = _pack(linear, kernels) if can_copy else None
        if packed is not None and _is_equal(packed, linear):
            setattr(parent, name, packed)
            num_packed += 1
            give_back()
        report("pack weights", (index + 1) / len(places))
    return num_packed


def _pack(linear: nn.Linear, kernels: CpuKernels | None) -> nn.Module | None:
    """The same layer over a packed weight; none if that does not pay."""
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    if kernels is not None and kernels.can_multiply and not any(size % BLOCK for size in weight.shape):
        return BlockedLinear(kernels, weight, bias)
    return PackedLinear(weight, bias) if _pays(linear) else None


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


def _is_equal(packed: nn.Module, linear: nn.Linear) -> bool:
    """Whether both give the same up to rounding."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_NUM_TRIED, linear.in_features, generator=generator).to(linear.weight.dtype)
    expected = functional.linear(x, linear.weight, linear.bias).float()
    error = (packed(x).float() - expected).norm()
    return bool(error <= 32 * torch.finfo(linear.weight.dtype).eps * expected.norm())

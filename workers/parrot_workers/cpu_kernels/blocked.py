"""How a weight lies in memory in blocks of outputs: ours, and, as oneDNN does not say, what it has packed."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BLOCK", "find_block", "to_blocks"]

BLOCK = 32
"""Inputs and outputs of the weights that our products take are multiples of this."""

_BLOCKS = (32, 64, 128)
_NUM_SAMPLES = 512


def to_blocks(weight: Tensor) -> Tensor:
    """The weight as our products read it: [num_outputs / 32][num_inputs / P][32][P], P as in `find_block`.

    Args:
        weight: Shape [num_outputs, num_inputs], both multiples of `BLOCK`; float32 or bfloat16.
    """
    num_outputs, num_inputs = weight.shape
    together = 4 // weight.element_size()
    return weight.view(num_outputs // BLOCK, BLOCK, num_inputs // together, together).transpose(1, 2).contiguous()


def find_block(weight: Tensor, address: int, num_bytes: int) -> int | None:
    """Outputs of a block, if a packed weight lies as [num_outputs / block][num_inputs / P][block][P].

    Args:
        weight: What was packed, shape [num_outputs, num_inputs], float32 (P = 1) or bfloat16 (P = 2).
        address: Where the packed weight begins.
        num_bytes: Its size.

    Returns:
        None if it lies in another way. Found by chance it cannot be: hundreds of elements are looked up.
    """
    num_outputs, num_inputs = weight.shape
    if num_bytes != weight.numel() * weight.element_size():
        return None
    bits: type[ctypes.c_uint16 | ctypes.c_uint32] = ctypes.c_uint16 if weight.element_size() == 2 else ctypes.c_uint32
    packed = np.ctypeslib.as_array((bits * weight.numel()).from_address(address))
    generator = np.random.default_rng(0)
    rows, columns = (generator.integers(size, size=_NUM_SAMPLES) for size in weight.shape)
    expected = _bits(weight[torch.from_numpy(rows), torch.from_numpy(columns)])
    together = 4 // weight.element_size()
    for block in _BLOCKS:
        if num_outputs % block or num_inputs % together:
            continue
        places = (rows // block * num_inputs + columns // together * together) * block
        places += rows % block * together + columns % together
        if (packed[places] == expected).all() and len(np.unique(expected)) > 16:
            return block
    return None


def _bits(values: Tensor) -> npt.NDArray[np.unsignedinteger]:
    if values.element_size() == 2:
        return values.contiguous().view(torch.int16).numpy().view(np.uint16)
    return values.contiguous().numpy().view(np.uint32)

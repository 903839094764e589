"""The compiled kernels as functions over tensors."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, Final

import numpy.typing as npt
import structlog
import torch
from torch import Tensor

from parrot_mq.errors import ConfigurationError
from parrot_workers.cpu_kernels.build import build_library

__all__ = ["HEAD_DIMS", "MAX_GROUP", "CpuKernels", "LayerStruct", "RowUnits", "WeightStruct", "load_kernels"]

log = structlog.get_logger(__name__)

HEAD_DIMS: Final = frozenset({16, 32, 64, 80, 96, 128, 256})
"""Sizes of a head that attention was compiled for."""
MAX_GROUP: Final = 64
"""Most query heads of a KV head."""


class _Units(ctypes.Structure):
    _fields_ = (
        ("rows", c_void_p),
        ("indptr", c_void_p),
        ("pages", c_void_p),
        ("lens", c_void_p),
        ("num", c_int64),
        ("page_size", c_int),
    )


class WeightStruct(ctypes.Structure):
    """A weight in blocks of outputs, as `kernels.cpp` says; the tensors stay somebody else's."""

    _fields_ = (
        ("data", c_void_p),
        ("bias", c_void_p),
        ("num_inputs", c_int64),
        ("num_outputs", c_int64),
        ("block", c_int64),
    )


class LayerStruct(ctypes.Structure):
    """A decoder layer of the plainest kind, as `kernels.cpp` says; the tensors stay somebody else's."""

    _fields_ = (
        ("qkv", WeightStruct),
        ("o", WeightStruct),
        ("gate_up", WeightStruct),
        ("down", WeightStruct),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("head_norm", c_void_p),
        ("attention_eps", c_float),
        ("mlp_eps", c_float),
        ("head_eps", c_float),
        ("num_qo", c_int64),
        ("num_kv", c_int64),
        ("dim", c_int64),
    )


class RowUnits:
    """Single rows and the pages that each of them reads.

    Args:
        rows: Which rows, shape [num_units], int64.
        indptr: Offsets of their pages, shape [num_units + 1], int64.
        pages: Shape [indptr[-1]], int32.
        lens: Tokens that each reads, at least one, shape [num_units], int64.
        page_size: Tokens of a page.
    """

    def __init__(
        self,
        rows: npt.NDArray[Any],
        indptr: npt.NDArray[Any],
        pages: npt.NDArray[Any],
        lens: npt.NDArray[Any],
        page_size: int,
    ) -> None:
        self._arrays = rows, indptr, pages, lens  # what the addresses below are of
        self.struct = _Units(*(array.ctypes.data for array in self._arrays), len(rows), page_size)

    def __len__(self) -> int:
        return int(self.struct.num)


_P, _N, _F, _I = c_void_p, c_int64, c_float, c_int
_SIGNATURES: Final = {
    "norm": (_P, _P, _P, _N, _N, _F, _I),
    "add_norm": (_P, _P, _P, _P, _P, _N, _N, _F, _I),
    "gate": (_P, _P, _N, _N, _I),
    "attend": (_P, _P, _P, _P, _P, POINTER(_Units), _N, _N, _N, _F, _F, _I),
}
_ROTATED: Final = {
    "rotate_and_write": (_P, _P, _F, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _I),
    "run_layer": (POINTER(LayerStruct), _P, _P, _N, _P, _P, _P, _P, _P, POINTER(_Units), _F, _F, _P, _I),
}
_NAMES: Final = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@cache
def load_kernels(dtype: torch.dtype) -> CpuKernels | None:
    """The kernels for tensors of a type; none if there are none for it, or they cannot be compiled here."""
    if dtype not in _NAMES:
        return None
    try:
        return CpuKernels(ctypes.CDLL(str(build_library())), dtype)
    except (ConfigurationError, OSError, AttributeError) as error:
        log.warning(
            "cpu_kernels_missing", reason=str(error), remedy="install g++ or clang++; torch's operations are used"
        )
        return None


class CpuKernels:
    """The kernels for one type; `LeanKernels` says what most of them do. All tensors contiguous unless stated."""

    def __init__(self, library: Any, dtype: torch.dtype) -> None:
        name = _NAMES[dtype]
        self._norm, self._add_norm, self._gate, self._attend = (
            _bind(library, f"{kernel}_{name}", arguments) for kernel, arguments in _SIGNATURES.items()
        )
        types = {dtype, torch.float32}
        self._rotate, self._run_layer = (
            {each: _bind(library, f"{kernel}_{name}_{_NAMES[each]}", arguments) for each in types}
            for kernel, arguments in _ROTATED.items()
        )
        self._dtype = dtype
        self._memory = torch.empty(0)

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        size = weight.numel()
        self._norm(
            x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.numel() // size, size, eps, torch.get_num_threads()
        )
        return out

    def add_norm(self, x: Tensor, h: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x, h = x.contiguous(), h.contiguous()
        total, out = torch.empty_like(x), torch.empty_like(x)
        rows, size = x.shape
        self._add_norm(
            x.data_ptr(),
            h.data_ptr(),
            weight.data_ptr(),
            total.data_ptr(),
            out.data_ptr(),
            rows,
            size,
            eps,
            torch.get_num_threads(),
        )
        return total, out

    def gate(self, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        rows, size = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, size)
        self._gate(gate_up.data_ptr(), out.data_ptr(), rows, size, torch.get_num_threads())
        return out

    def can_rotate(self, head_dim: int) -> bool:
        return head_dim % 2 == 0

    def rotate_and_write(
        self,
        qkv: Tensor,
        head_weight: Tensor | None,
        eps: float,
        rotation: tuple[Tensor, Tensor] | None,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
    ) -> Tensor:
        qkv = qkv.contiguous()
        rows, num_heads, head_dim = qkv.shape
        num_kv = keys.shape[-2]
        num_qo = num_heads - 2 * num_kv
        q = qkv.new_empty(rows, num_qo, head_dim)
        cos, sin = rotation or (None, None)
        self._rotate[qkv.dtype if cos is None else cos.dtype](
            qkv.data_ptr(),
            _address(head_weight),
            eps,
            _address(cos),
            _address(sin),
            slots.data_ptr(),
            q.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            rows,
            num_qo,
            num_kv,
            head_dim,
            torch.get_num_threads(),
        )
        return q

    def attend(
        self, q: Tensor, keys: Tensor, values: Tensor, units: RowUnits, *, scale: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        """Attention of single rows, each over pages of its own.

        Args:
            q: Shape [num_rows, num_kv_heads, group, head_dim]; `head_dim` is one of `HEAD_DIMS`, `group` at most
                `MAX_GROUP`.
            keys: The layer's cache, shape [num_pages, pool_page_size, num_kv_heads, head_dim].
            values: Like `keys`.
            units: Which rows, and their pages.
            scale: Factor of the scores.
            softcap: As in `AttentionBackend.run`.

        Returns:
            The result of each unit, shape [num_units, num_kv_heads, group, head_dim]; the natural log-sum-exp of its
            scores, [num_units, num_kv_heads, group], float32.
        """
        _, num_kv, group, head_dim = q.shape
        out = q.new_empty(len(units), num_kv, group, head_dim)
        lse = q.new_empty(len(units), num_kv, group, dtype=torch.float32)
        failed = self._attend(
            q.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            lse.data_ptr(),
            byref(units.struct),
            num_kv,
            group,
            head_dim,
            scale,
            softcap or 0.0,
            torch.get_num_threads(),
        )
        assert not failed, f"attention was not compiled for heads of {head_dim}"
        return out, lse

    def run_layer(
        self,
        layer: LayerStruct,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        slots: Tensor,
        keys: Tensor,
        values: Tensor,
        units: RowUnits,
        *,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        """A whole decoder layer for a few rows: one call, so that nothing has to be fetched anew between its parts.

        Args:
            layer: Weights and sizes.
            x: Hidden states, shape [num_rows, hidden_size].
            rotation: Cosines and signed sines, both shape [num_rows, 1, head_dim]; none for no rotation.
            slots: Where keys and values of each row go, shape [num_rows], int64.
            keys: As in `attend`.
            values: Like `keys`.
            units: All rows in their order, and the pages that each reads.
            scale: As in `attend`.
            softcap: As in `attend`.

        Returns:
            Hidden states after the layer, shape and dtype of `x`.
        """
        x = x.contiguous()
        rows, hidden = x.shape
        out = torch.empty_like(x)
        sizes = 3 * hidden + layer.qkv.num_outputs + layer.o.num_inputs + 3 * layer.down.num_inputs
        if self._memory.numel() < rows * sizes:
            self._memory = torch.empty(rows * sizes)
        cos, sin = rotation or (None, None)
        failed = self._run_layer[self._dtype if cos is None else cos.dtype](
            byref(layer),
            x.data_ptr(),
            out.data_ptr(),
            rows,
            _address(cos),
            _address(sin),
            slots.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            byref(units.struct),
            scale,
            softcap or 0.0,
            self._memory.data_ptr(),
            torch.get_num_threads(),
        )
        assert not failed, f"attention was not compiled for heads of {layer.dim}"
        return out


def _bind(library: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = c_int if name.startswith(("attend", "run_layer")) else None
    return function


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

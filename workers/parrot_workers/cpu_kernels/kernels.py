"""The compiled kernels as functions over tensors."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import structlog
import torch
from torch import Tensor

from parrot_mq.errors import ConfigurationError
from parrot_workers.cpu_kernels.build import build_library

__all__ = [
    "HEAD_DIMS",
    "MAX_GROUP",
    "CpuKernels",
    "LayerCaches",
    "LayerStruct",
    "Levels",
    "PagedLevel",
    "RowUnits",
    "WeightStruct",
    "load_kernels",
]

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


class _Level(ctypes.Structure):
    _fields_ = (
        ("rows", c_void_p),
        ("indptr", c_void_p),
        ("pages", c_void_p),
        ("lens", c_void_p),
        ("num_entries", c_int64),
        ("page_size", c_int32),
        ("is_causal", c_int32),
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
        ("is_paired", c_int64),
        ("is_rotated", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
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


class PagedLevel(NamedTuple):
    """Rows side by side, and the pages that each of them reads; as `attention.Level` has them, all int32.

    Attributes:
        rows: Offsets of each entry's rows, shape [num_entries + 1].
        indptr: Offsets of each entry's pages, shape [num_entries + 1].
        pages: Shape [indptr[-1]].
        lens: Tokens that each entry reads, shape [num_entries].
        page_size: Tokens of a page.
    """

    rows: npt.NDArray[np.int32]
    indptr: npt.NDArray[np.int32]
    pages: npt.NDArray[np.int32]
    lens: npt.NDArray[np.int32]
    page_size: int


class Levels:
    """What the rows of a step read: in each level, one entry or none. The last level is causal.

    Args:
        levels: At least one; they cover the same rows.
    """

    def __init__(self, levels: Sequence[PagedLevel]) -> None:
        self._arrays = [[np.ascontiguousarray(array) for array in level[:4]] for level in levels]  # of the addresses
        structs = [
            _Level(*(array.ctypes.data for array in arrays), len(level.lens), level.page_size, index + 1 == len(levels))
            for index, (level, arrays) in enumerate(zip(levels, self._arrays, strict=True))
        ]
        self.structs = (_Level * len(levels))(*structs)

    def __len__(self) -> int:
        return len(self.structs)


class LayerCaches:
    """Keys and values of some layers, by their addresses; the tensors stay somebody else's.

    Args:
        caches: Of each layer, as in `CpuKernels.attend`.
    """

    def __init__(self, caches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.keys, self.values = (
            (c_void_p * len(caches))(*(tensor.data_ptr() for tensor in tensors))
            for tensors in zip(*caches, strict=True)
        )


_HUGE_PAGE: Final = 2 << 20  # bytes

_P, _N, _F, _I = c_void_p, c_int64, c_float, c_int
_SIGNATURES: Final = {
    "norm": (_P, _P, _P, _N, _N, _F, _I),
    "add_norm": (_P, _P, _P, _P, _P, _N, _N, _F, _I),
    "gate": (_P, _P, _N, _N, _I),
    "read_bytes": (_N, _N, _N, _I),
    "read": (_P, _P, _P, _P, POINTER(_Level), _N, _N, _N, _N, _N, _F, _F, _N, _P, _I),
    "product_bytes": (POINTER(WeightStruct), _N, _I),
    "multiply": (POINTER(WeightStruct), _P, _P, _N, _P, _I),
    "layers_bytes": (_P, _N, _N, _N, _I),
}
_ROTATED: Final = {
    "rotate_and_write": (_P, _P, _F, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _I),
    "run_layers": (_P, _N, _P, _P, _N, _P, _P, _P, _P, _P, POINTER(_Units), POINTER(_Level), _N, _N, _P, _I),
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
        plain = {kernel: _bind(library, f"{kernel}_{name}", arguments) for kernel, arguments in _SIGNATURES.items()}
        self._norm, self._add_norm, self._gate = plain["norm"], plain["add_norm"], plain["gate"]
        self._read_bytes, self._read = plain["read_bytes"], plain["read"]
        self._product_bytes, self._multiply = plain["product_bytes"], plain["multiply"]
        self._layers_bytes = plain["layers_bytes"]
        types = {dtype, torch.float32}
        self._rotate, self._run_layers = (
            {each: _bind(library, f"{kernel}_{name}_{_NAMES[each]}", arguments) for each in types}
            for kernel, arguments in _ROTATED.items()
        )
        self._dtype = dtype
        self._scratch = mmap.mmap(-1, _HUGE_PAGE)
        self.can_multiply = bool(library.may_multiply())
        """Whether this processor has what `multiply` needs."""

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

    def multiply(self, x: Tensor, weight: WeightStruct) -> Tensor:
        """Return `x W^T + bias`, shape [num_rows, num_outputs].

        Args:
            x: Shape [num_rows, num_inputs].
            weight: In blocks of 32, as `to_blocks` gives it.
        """
        x = x.contiguous()
        rows, threads = len(x), torch.get_num_threads()
        out = x.new_empty(rows, weight.num_outputs)
        memory = self._memory(self._product_bytes(byref(weight), rows, threads))
        self._multiply(byref(weight), x.data_ptr(), out.data_ptr(), rows, memory, threads)
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
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        levels: Levels,
        *,
        scale: float,
        softcap: float | None,
        window: int | None,
    ) -> Tensor:
        """Attention of the rows of a step, each over what it reads in all levels.

        Args:
            q: Shape [num_rows, num_qo_heads, head_dim]; `head_dim` is one of `HEAD_DIMS`, and there are at most
                `MAX_GROUP` query heads for a KV head.
            keys: The layer's cache, shape [num_pages, pool_page_size, num_kv_heads, head_dim].
            values: Like `keys`.
            levels: What the rows read.
            scale: Factor of the scores.
            softcap: As in `AttentionBackend.run`.
            window: Tokens that a row sees of the last level, itself included; none for all.

        Returns:
            Shape and dtype of `q`.
        """
        q = q.contiguous()
        rows, num_qo, head_dim = q.shape
        num_kv, threads = keys.shape[2], torch.get_num_threads()
        out = torch.empty_like(q)
        failed = self._read(
            q.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            levels.structs,
            len(levels),
            rows,
            num_kv,
            num_qo // num_kv,
            head_dim,
            scale,
            softcap or 0.0,
            window or 0,
            self._memory(self._read_bytes(rows * num_qo, head_dim, len(levels), threads)),
            threads,
        )
        assert not failed, f"attention was not compiled for heads of {head_dim}"
        return out

    def run_layers(
        self,
        layers: ctypes.Array[LayerStruct],
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        slots: Tensor,
        caches: LayerCaches,
        reading: RowUnits | Levels,
        *,
        window: int | None = None,
    ) -> Tensor:
        """Whole decoder layers, one after the other, so that nothing has to be fetched anew between their parts.

        Args:
            layers: Weights and sizes.
            x: Hidden states, shape [num_rows, hidden_size].
            rotation: Cosines and signed sines, both shape [num_rows, 1, head_dim]; none for no rotation.
            slots: Where keys and values of each row go, shape [num_rows], int64.
            caches: Of these layers.
            reading: What the rows read. If units, all rows in their order, and there should be few. For levels the
                weights have to be in blocks of 32, those of `gate_up` in pairs.
            window: As in `attend`; the units are cut already.

        Returns:
            Hidden states after the layers, shape and dtype of `x`.
        """
        x = x.contiguous()
        rows, threads, out = len(x), torch.get_num_threads(), torch.empty_like(x)
        levels = reading if isinstance(reading, Levels) else None
        num_levels = 0 if levels is None else len(levels)
        cos, sin = rotation or (None, None)
        failed = self._run_layers[self._dtype if cos is None else cos.dtype](
            layers,
            len(layers),
            x.data_ptr(),
            out.data_ptr(),
            rows,
            _address(cos),
            _address(sin),
            slots.data_ptr(),
            caches.keys,
            caches.values,
            byref(reading.struct) if isinstance(reading, RowUnits) else None,
            None if levels is None else levels.structs,
            num_levels,
            window or 0,
            self._memory(self._layers_bytes(layers, len(layers), rows, num_levels, threads)),
            threads,
        )
        assert not failed, f"attention was not compiled for heads of {layers[0].dim}"
        return out

    def _memory(self, num_bytes: int) -> int:
        """Address of memory that calls use one after the other, at the beginning of a page."""
        if len(self._scratch) < num_bytes:
            self._scratch = mmap.mmap(-1, -(-num_bytes // _HUGE_PAGE) * _HUGE_PAGE)
            if hasattr(mmap, "MADV_HUGEPAGE"):  # large pages lie evenly in the caches
                self._scratch.madvise(mmap.MADV_HUGEPAGE)
        return ctypes.addressof(ctypes.c_char.from_buffer(self._scratch))


def _bind(library: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    function = getattr(library, name)
    function.argtypes = arguments
    kernel = name.partition("_float")[0].partition("_bfloat")[0]
    function.restype = {"read": c_int, "run_layers": c_int}.get(kernel, c_int64 if kernel.endswith("_bytes") else None)
    return function


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

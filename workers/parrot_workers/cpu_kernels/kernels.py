"""The compiled kernels as functions over tensors."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int64, c_void_p
from functools import cache
from typing import Any, Final

import structlog
import torch
from torch import Tensor

from parrot_mq.errors import ConfigurationError
from parrot_workers.cpu_kernels.build import build_library

__all__ = ["HEAD_DIMS", "MAX_GROUP", "CpuKernels", "load_kernels"]

log = structlog.get_logger(__name__)

HEAD_DIMS: Final = frozenset({16, 32, 64, 80, 96, 128, 256})
"""Sizes of a head that attention was compiled for."""
MAX_GROUP: Final = 64
"""Most query heads of a KV head."""

_P, _N, _F, _I = c_void_p, c_int64, c_float, c_int
_SIGNATURES: Final = {
    "norm": (_P, _P, _P, _N, _N, _F, _I),
    "add_norm": (_P, _P, _P, _P, _P, _N, _N, _F, _I),
    "gate": (_P, _P, _N, _N, _I),
    "attend": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _N, _I, _N, _N, _N, _F, _F, _I),
}
_ROTATE: Final = (_P, _P, _F, _P, _P, _P, _P, _P, _P, _N, _N, _N, _N, _I)
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
        self._rotate = {each: _bind(library, f"rotate_and_write_{name}_{_NAMES[each]}", _ROTATE) for each in types}

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
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        units: tuple[Tensor, Tensor, Tensor, Tensor],
        *,
        page_size: int,
        scale: float,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Attention of single rows, each over pages of its own.

        Args:
            q: Shape [num_rows, num_kv_heads, group, head_dim]; `head_dim` is one of `HEAD_DIMS`, `group` at most
                `MAX_GROUP`.
            keys: The layer's cache, shape [num_pages, pool_page_size, num_kv_heads, head_dim].
            values: Like `keys`.
            units: Of each unit: its row, shape [num_units], int64; offsets of its pages, [num_units + 1], int64; the
                pages, int32; its tokens, at least one, [num_units], int64.
            page_size: Tokens of a page, as the units count.
            scale: Factor of the scores.
            softcap: As in `AttentionBackend.run`.

        Returns:
            The result of each unit, shape [num_units, num_kv_heads, group, head_dim]; the natural log-sum-exp of its
            scores, [num_units, num_kv_heads, group], float32.
        """
        rows, indptr, pages, lens = units
        _, num_kv, group, head_dim = q.shape
        out = q.new_empty(len(rows), num_kv, group, head_dim)
        lse = q.new_empty(len(rows), num_kv, group, dtype=torch.float32)
        failed = self._attend(
            q.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out.data_ptr(),
            lse.data_ptr(),
            rows.data_ptr(),
            indptr.data_ptr(),
            pages.data_ptr(),
            lens.data_ptr(),
            len(rows),
            page_size,
            num_kv,
            group,
            head_dim,
            scale,
            softcap or 0.0,
            torch.get_num_threads(),
        )
        assert not failed, f"attention was not compiled for heads of {head_dim}"
        return out, lse


def _bind(library: Any, name: str, arguments: tuple[Any, ...]) -> Any:
    function = getattr(library, name)
    function.argtypes = arguments
    function.restype = c_int if name.startswith("attend") else None
    return function


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()

"""Attention of dense tensors on a CPU, with the log-sum-exp that is needed to merge partial results."""

from __future__ import annotations

from functools import partial
from typing import Final, Protocol

import torch
from torch import Tensor

__all__ = ["HAS_FLASH", "Kernel", "flash_kernel", "matmul_kernel", "merge"]

_FLASH: Final = getattr(torch, "_scaled_dot_product_flash_attention_for_cpu", None)
HAS_FLASH: Final = _FLASH is not None
"""Whether torch has the operator below. Its name is private, so a release may drop it."""


class Kernel(Protocol):
    """Attention of a batch, each with `q_len` queries over `kv_len` keys; query head h reads KV head h // group."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            q: Shape [batch, num_qo_heads, q_len, head_dim].
            k: Shape [batch, num_kv_heads, kv_len, head_dim]; `q`, `k` and `v` may be strided, with heads contiguous.
            v: Like `k`.
            is_causal: Query i sees keys 0..i; only for q_len == kv_len.
            mask: Added to the scores, dtype of `q`, broadcast to [batch, num_qo_heads, q_len, kv_len]. No row may be
                -inf everywhere.

        Returns:
            The result, shape and dtype of `q`; and the natural log-sum-exp of the scores, shape [batch, num_qo_heads,
            q_len], fp32 or wider.
        """
        ...


def flash_kernel(scale: float) -> Kernel:
    """Return torch's own blocked kernel.

    NOTE: two things it does that one might not expect: `is_causal` begins at the upper left corner also when q_len and
    kv_len differ, and the log-sum-exp of a row that sees nothing is 0.
    """
    flash = _FLASH
    assert flash is not None

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        out, lse = flash(q, k, v, 0.0, is_causal, attn_mask=mask, scale=scale)
        return out, lse

    return kernel


def matmul_kernel(scale: float, softcap: float | None = None) -> Kernel:
    """Return attention by two products of matrices, for softcap, and for a torch without the other kernel."""
    return partial(_matmul, scale, softcap)


def _matmul(
    scale: float,
    softcap: float | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    is_causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    batch, num_qo_heads, q_len, head_dim = q.shape
    num_kv_heads, kv_len = k.shape[1:3]
    exact = torch.promote_types(q.dtype, torch.float32)
    # The query heads of a group become rows of one product, so that K and V need not be repeated for each of them.
    rows = q.to(exact).reshape(batch, num_kv_heads, -1, head_dim)
    scores = torch.matmul(rows * scale, k.to(exact).transpose(2, 3)).view(batch, num_qo_heads, q_len, kv_len)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        scores = scores + mask
    if is_causal:
        scores = scores.masked_fill(torch.ones(q_len, kv_len, dtype=torch.bool).triu(1), -torch.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse.unsqueeze(-1)).exp_().view(batch, num_kv_heads, -1, kv_len)
    out = torch.matmul(weights, v.to(exact)).view(q.shape)
    return out.to(q.dtype), lse


def merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> Tensor:
    """Return the attention over the keys of both: with w = e^part_lse / (e^lse + e^part_lse), (1 - w) out + w part.

    Args:
        out: Shape [..., head_dim].
        lse: Shape [...].
        part: Like `out`.
        part_lse: Like `lse`.
    """
    weight = torch.sigmoid(part_lse - lse).unsqueeze(-1)
    return torch.lerp(out, part, weight.to(out.dtype))

"""Attention in plain torch, entry by entry: slow, exact, for any device. The oracle of the other backends."""

from __future__ import annotations

import torch
from torch import Tensor

from parrot_workers.attention.level import Level
from parrot_workers.attention.plan import AttentionPlan

__all__ = ["ReferenceBackend"]


class ReferenceBackend:
    """Runs each level of a plan as it is written and merges the results by log-sum-exp.

    Everything between inputs and output is fp32, or fp64 if the inputs are.
    """

    def __init__(self) -> None:
        self._plan: AttentionPlan | None = None

    def plan(self, plan: AttentionPlan) -> None:
        """Keep the plan."""
        self._plan = plan

    def run(
        self,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        scale: float,
        softcap: float | None = None,
        window: int | None = None,
    ) -> Tensor:
        """Attend over the paged cache, as `AttentionBackend.run` says."""
        assert self._plan is not None, "run before plan"
        levels = self._plan.levels_for(window)
        exact = torch.promote_types(q.dtype, torch.float32)
        out = torch.zeros_like(q, dtype=exact)
        lse = torch.full(q.shape[:2], -torch.inf, dtype=exact, device=q.device)
        for index, level in enumerate(levels):
            is_own = index == len(levels) - 1
            for rows, slots in _entries(level):
                k, v = (cache.flatten(0, 1)[slots.to(q.device)].to(exact) for cache in (keys, values))
                scores = _scores(q[rows].to(exact), k, scale=scale, softcap=softcap)
                if is_own:
                    scores = scores.masked_fill(~_is_seen(len(q[rows]), len(k), window, q.device), -torch.inf)
                _merge(out[rows], lse[rows], scores, v)
        return out.to(q.dtype)


def _entries(level: Level) -> list[tuple[slice, Tensor]]:
    """Rows and slots of each entry that reads something."""
    entries = []
    for index, kv_len in enumerate(level.kv_lens.tolist()):
        if kv_len:
            rows = slice(int(level.qo_indptr[index]), int(level.qo_indptr[index + 1]))
            pages = torch.from_numpy(level.kv_indices[level.kv_indptr[index] : level.kv_indptr[index + 1]]).long()
            slots = pages[:, None] * level.page_size + torch.arange(level.page_size)
            entries.append((rows, slots.flatten()[:kv_len]))
    return entries


def _scores(q: Tensor, k: Tensor, *, scale: float, softcap: float | None) -> Tensor:
    """Returns: shape [num_qo_heads, num_rows, num_tokens]; query head h reads KV head h // group."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q, k) * scale
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _is_seen(num_rows: int, num_tokens: int, window: int | None, device: torch.device) -> Tensor:
    """Which tokens each row sees: the last row all of them, within its window. Shape [num_rows, num_tokens]."""
    last = torch.arange(num_tokens - num_rows, num_tokens, device=device)[:, None]
    tokens = torch.arange(num_tokens, device=device)
    return (tokens <= last) & (tokens > last - (window or num_tokens))


def _merge(out: Tensor, lse: Tensor, scores: Tensor, v: Tensor) -> None:
    """Add what an entry's rows read to what they have read so far, in place.

    Args:
        out: Results so far, shape [num_rows, num_qo_heads, head_dim].
        lse: Log-sum-exp of the scores so far, natural, shape [num_rows, num_qo_heads].
        scores: Shape [num_qo_heads, num_rows, num_tokens].
        v: Shape [num_tokens, num_kv_heads, head_dim].
    """
    v = v.repeat_interleave(out.shape[1] // v.shape[1], dim=1)
    total = torch.logaddexp(lse, scores.logsumexp(-1).T)
    part = torch.einsum("hnm,mhd->nhd", (scores - total.T[..., None]).exp(), v)
    out.mul_((lse - total).exp()[..., None]).add_(part)
    lse.copy_(total)

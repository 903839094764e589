"""What every attention backend does: plan once per step, run once per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from parrot_workers.attention.plan import AttentionPlan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AttentionBackend"]


class AttentionBackend(Protocol):
    """Runs a plan. All backends give the same result for the same plan, within the precision of their arithmetic."""

    def plan(self, plan: AttentionPlan) -> None:
        """Prepare for a step; whatever depends only on the plan is done here, once for all layers."""
        ...

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
        """Attend over the paged cache. The K/V of this step's rows must be in it already.

        Args:
            q: Queries in the order of the plan's rows, shape [num_rows, num_qo_heads, head_dim].
            keys: The layer's keys, shape [num_pages, page_size, num_kv_heads, head_dim], dtype of q.
            values: The layer's values, the same shape and dtype.
            scale: Factor of the scores.
            softcap: Scores s become softcap * tanh(s / softcap).
            window: Tokens that a query sees, itself included; see `AttentionPlan.levels_for`.

        Returns:
            Shape [num_rows, num_qo_heads, head_dim], dtype of q.
        """
        ...

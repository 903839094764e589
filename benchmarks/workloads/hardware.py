"""What a simulated worker is: how long its steps take, and how much it holds."""

from __future__ import annotations

from dataclasses import dataclass

from parrot_mq import testing

__all__ = ["A100_13B", "A6000_7B", "PAGE_SIZE", "Hardware"]

PAGE_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A worker of the paper.

    Attributes:
        name: Card and model.
        latency: How long its steps take.
        num_pages: Pages of its KV cache.
    """

    name: str
    latency: testing.LatencyModel
    num_pages: int


A100_13B = Hardware(name="13B on an A100", latency=testing.A100_13B, num_pages=4000)
"""4,000 blocks are Parrot's own setting for the multi-agent runs: 50 GB of keys and values."""
A6000_7B = Hardware(name="7B on an A6000", latency=testing.A6000_7B, num_pages=3000)
"""3,000 blocks are Parrot's own setting for the GPTs runs: 25 GB of keys and values."""

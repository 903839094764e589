"""How many workers the work calls for: pure.

All work is counted in *worker-seconds*: what it takes one worker, with all its slots in use, to do it. That is known
from tokens, and from how fast workers proved to be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from parrot_mq.autoscale.arrivals import Arrivals, Flow
from parrot_mq.autoscale.config import PolicyConfig
from parrot_mq.autoscale.observation import Learned, Observation, Rate
from parrot_mq.messages import ModelDemand

__all__ = ["Need", "estimate"]

OUTPUT_VARIANCE = 2.0
"""Mean square of what a generation takes, by the square of the mean: 2 for exponential times, less for most programs."""


class Need(NamedTuple):
    """What the work calls for, without regard of limits.

    Attributes:
        num_workers: So many workers.
        num_burst: So many if it goes on coming as in the last moments.
        reason: What it follows from, for people.
    """

    num_workers: int
    num_burst: int
    reason: str


def estimate(
    learned: Learned, arrivals: Arrivals, seen: Observation, config: PolicyConfig, *, max_unfinished: float
) -> Need:
    """Find out what the work calls for.

    Args:
        learned: How fast workers are.
        arrivals: What came.
        seen: What is seen now.
        config: Settings.
        max_unfinished: Most generations that were unfinished at a time, of late.
    """
    demand = seen.demand
    assert demand is not None, "the caller holds without figures"
    num_full = learned.num_full or config.default_slots
    words = f"{seen.num_waiting} wait and {seen.num_running} run"
    by_slots = math.ceil(max_unfinished / num_full)
    now_by_slots = math.ceil((seen.num_waiting + seen.num_running) / num_full)
    rate = learned.rate
    if rate is None:
        return Need(now_by_slots, now_by_slots, f"{words}, {num_full:.0f} at a time for each worker")
    backlog = _backlog(rate, demand, config)
    stable = _likely_busy(rate, arrivals.flow(config.stable_window_s), config.stable_window_s)
    burst = _likely_busy(rate, arrivals.flow(config.panic_window_s), config.panic_window_s)
    # Nobody needs more than a slot, whatever tokens say: they are a guess, as long as few outputs have been seen.
    wanted = min(by_slots, math.ceil(_serve(stable, num_full, config) + backlog - 1e-6))
    running = math.ceil(seen.num_running / num_full)
    return Need(
        max(wanted, running, min(1, now_by_slots)),
        min(now_by_slots, math.ceil(_serve(burst, num_full, config) + backlog)),
        f"{words}, {stable:.1f} workers are busy with what comes, {backlog:.1f} more with what waits",
    )


def _likely_busy(rate: Rate, flow: Flow, window_s: float) -> float:
    """Workers that are busy with what comes; less what may be chance, for a window sees only so much."""
    busy = flow.num_prefill_tokens / rate.prefill_tokens_per_s + flow.num_output_tokens / rate.output_tokens_per_s
    if flow.num_generations <= 0:
        return 0.0
    deviation = busy * math.sqrt(OUTPUT_VARIANCE / (flow.num_generations * window_s))
    return max(0.0, busy - deviation)


def _serve(busy: float, num_full: float, config: PolicyConfig) -> float:
    """Workers so that what comes seldom waits.

    Source: square-root staffing; Halfin and Whitt, Heavy-traffic limits for queues with many exponential servers
    (1981). A slot is a server.
    """
    return busy + config.headroom * math.sqrt(busy / num_full)


def _backlog(rate: Rate, demand: ModelDemand, config: PolicyConfig) -> float:
    """Workers so that what waits has a slot in time."""
    latency_s, throughput_s = rate.seconds(demand.latency_ready), rate.seconds(demand.throughput_ready)
    return latency_s / config.latency_wait_s + throughput_s / config.throughput_wait_s

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


class Need(NamedTuple):
    """What the work calls for, without regard of limits.

    Attributes:
        num_workers: So many workers.
        num_burst: So many if it goes on coming as in the last moments.
        num_kept: So many have to be kept, if there are more.
        num_unfinished: Generations that are not finished.
        reason: What it follows from, for people.
    """

    num_workers: int
    num_burst: int
    num_kept: int
    num_unfinished: int
    reason: str


def estimate(learned: Learned, arrivals: Arrivals, seen: Observation, config: PolicyConfig) -> Need:
    """Find out what the work calls for."""
    demand = seen.demand
    assert demand is not None, "the caller holds without figures"
    num_waiting = demand.latency_ready.num_generations + demand.throughput_ready.num_generations
    num_running = demand.latency_running.num_generations + demand.throughput_running.num_generations
    num_unfinished = num_waiting + num_running
    num_full = learned.num_full or config.default_slots
    least = 1 if num_unfinished else 0
    rate = learned.rate
    words = f"{num_waiting} wait and {num_running} run"
    if rate is None:
        by_slots = max(least, math.ceil(num_unfinished / num_full))
        return Need(by_slots, by_slots, by_slots, num_unfinished, f"{words}, with {num_full:.0f} at a time per worker")
    backlog = _backlog(rate, demand, config)
    stable = _busy(rate, arrivals.flow(config.stable_window_s))
    burst = _busy(rate, arrivals.flow(config.panic_window_s))
    by_slots = math.ceil(num_running / num_full)
    serve = _serve(stable, num_full, config)
    num_workers = max(least, math.ceil(serve + backlog - 1e-6))
    num_burst = math.ceil(_serve(burst, num_full, config) + backlog)
    reason = f"{words}, {stable:.1f} workers are busy with what comes, {backlog:.1f} more with what waits"
    return Need(num_workers, num_burst, max(least, by_slots, num_workers), num_unfinished, reason)


def _busy(rate: Rate, flow: Flow) -> float:
    """Workers that are busy with what comes."""
    return flow.num_prefill_tokens / rate.prefill_tokens_per_s + flow.num_output_tokens / rate.output_tokens_per_s


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

"""How many workers the work calls for: pure.

All work is counted in *worker-seconds*: what it takes one worker, with all its slots in use, to do it. That is known
from tokens, and from how fast workers proved to be.

What comes keeps so many workers busy in the mean; so that it seldom has to wait, some slots more are kept free, as many
as chance calls for: a multiple of the square root of those in use.

Source: square-root staffing; Halfin and Whitt, Heavy-traffic limits for queues with many exponential servers (1981). A
slot is a server.
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
"""Mean square of what a generation takes, as a multiple of the square of the mean: 2 for exponential times."""
MIN_FINISHED = 50
"""Until so many have been finished it is not known how much of what they may write outputs have in the mean."""
UP_CAUTION, KEEP_CAUTION = 3.0, 1.0
"""Standard deviations by which arrivals may be more than usual by chance. That they are not must be almost sure before
a worker is started for them, and likely before one is kept: chance alone neither starts nor stops one."""


class Need(NamedTuple):
    """What the work calls for, without regard of limits.

    Attributes:
        num_workers: So many workers.
        num_kept: So many are kept, if there are more.
        num_burst: So many if it goes on coming as in the last moments until they are ready.
        reason: What it follows from, for people.
    """

    num_workers: int
    num_kept: int
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
    num_full, rate = learned.num_full or config.default_slots, learned.rate
    num_unfinished = seen.num_waiting + seen.num_running
    by_slots = math.ceil(num_unfinished / num_full)
    if rate is None or demand.finished.num_generations < MIN_FINISHED:
        words = f"{_describe(seen)}, {num_full:.0f} run at a time in one worker"
        return Need(by_slots, by_slots, by_slots, words)
    backlog, load_s = _backlog(rate, demand, config), learned.load_s or config.default_load_s
    flow, burst = arrivals.flow(config.stable_window_s), arrivals.usual_flow(config.panic_window_s)
    starting = _busy(rate, flow, config.stable_window_s, UP_CAUTION)
    keeping = _busy(rate, flow, config.stable_window_s, KEEP_CAUTION)
    bursting = _busy(rate, burst, config.panic_window_s, KEEP_CAUTION)
    growth = max(0.0, bursting - seen.num_ready) * load_s / config.latency_wait_s
    # Nobody needs more than a slot, whatever tokens say; nor does what will have come when one more worker is ready.
    most = math.ceil(max_unfinished / num_full)
    most_then = math.ceil((num_unfinished + burst.num_generations * load_s) / num_full)
    least = max(min(1, by_slots), math.ceil(seen.num_running / num_full))
    return Need(
        max(least, min(most, _staff(starting, num_full, config, backlog))),
        min(most, _staff(keeping, num_full, config)),
        max(least, min(most_then, _staff(bursting, num_full, config, backlog + growth))),
        _describe(seen, _busy(rate, flow), backlog),
    )


def _describe(seen: Observation, busy: float = 0.0, backlog: float = 0.0) -> str:
    """The figures in words, without those that are nothing."""
    parts = ["nothing is to be done"]
    if seen.num_waiting + seen.num_running:
        parts = [f"{seen.num_waiting} wait and {seen.num_running} run"]
    if busy >= 0.05:
        parts.append(f"what comes keeps {busy:.1f} workers busy")
    if backlog >= 0.05:
        parts.append(f"what waits calls for {backlog:.1f} more")
    return ", ".join(parts)


def _staff(busy: float, num_full: float, config: PolicyConfig, more: float = 0.0) -> int:
    """Workers for those that are busy, so that what comes finds a free slot, and some more."""
    return math.ceil(busy + config.headroom * math.sqrt(busy / num_full) + more - 1e-6)


def _busy(rate: Rate, flow: Flow, window_s: float = 1.0, caution: float = 0.0) -> float:
    """Workers that are busy with what comes; less what may be chance, for a window sees only so much."""
    if flow.num_generations <= 0:
        return 0.0
    busy = flow.num_prefill_tokens / rate.prefill_tokens_per_s + flow.num_output_tokens / rate.output_tokens_per_s
    return busy * max(0.0, 1 - caution * math.sqrt(OUTPUT_VARIANCE / (flow.num_generations * window_s)))


def _backlog(rate: Rate, demand: ModelDemand, config: PolicyConfig) -> float:
    """Workers so that what waits has a slot in time."""
    latency_s, throughput_s = rate.seconds(demand.latency_ready), rate.seconds(demand.throughput_ready)
    return latency_s / config.latency_wait_s + throughput_s / config.throughput_wait_s

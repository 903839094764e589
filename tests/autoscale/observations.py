"""What a policy sees, made up."""

from __future__ import annotations

from typing import Any

from parrot_mq.autoscale import Observation
from parrot_mq.messages import ModelDemand, Work, WorkerRate

__all__ = ["OUTPUT_TOKENS", "SLOTS", "observe", "worker"]

SLOTS = 8
OUTPUT_TOKENS = 400
"""Of one generation: a worker with all its slots in use makes one in a second."""


def worker(name: str = "w", **details: Any) -> WorkerRate:
    """One that has shown how fast it is."""
    given = {"num_slots": SLOTS, "num_full": SLOTS, "num_running": 1, **details}
    return WorkerRate(worker=name, prefill_tokens_per_s=1e9, output_tokens_per_s=float(OUTPUT_TOKENS), **given)


def observe(
    now: float,
    *,
    waiting: int = 0,
    running: int = 0,
    throughput: int = 0,
    arrived: int = 0,
    finished: int = 1000,
    since: float = 1.0,
    **details: Any,
) -> Observation:
    """One model at a moment, with generations of the same size.

    Args:
        now: Seconds.
        waiting: Generations without a worker that somebody waits for.
        running: Generations with one.
        throughput: Generations without one that only have to be finished.
        arrived: How many have come.
        finished: How many have ended.
        since: When the dispatcher began.
        details: Fields of the observation.
    """
    is_seen = bool(details.get("num_ready"))
    demand = ModelDemand(
        model="m",
        latency_ready=_work(waiting),
        latency_running=_work(running),
        throughput_ready=_work(throughput),
        arrived=_work(arrived),
        finished=_work(finished),
        since=since,
        workers=[worker()] if is_seen else [],
    )
    return Observation(**{"now": now, "demand": demand, **details})


def _work(num: int) -> Work:
    return Work(num_generations=num, num_output_tokens=num * OUTPUT_TOKENS)

"""What there is to do for a model, as an autoscaler wants to know it: pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection

from parrot_mq.coordinator.dispatch.backlog import Amount, Backlog, Kind
from parrot_mq.coordinator.dispatch.job import SizeModel
from parrot_mq.coordinator.dispatch.ledger import WorkerLedger
from parrot_mq.messages import ModelDemand, TenantDemand, Work, WorkerRate

__all__ = ["make_demand", "worker_rate"]

MAX_TENANTS = 1000
"""Tenants in one report, so that it has a bounded size."""


def make_demand(
    model: str, backlog: Backlog, sizes: SizeModel, workers: Collection[WorkerLedger], *, since: float, now: float
) -> ModelDemand:
    """Put together what the dispatcher of a model knows. Costs O(workers + tenants that have work).

    Args:
        model: Its name.
        backlog: What is ready and what runs.
        sizes: How many tokens things are.
        workers: All of them.
        since: When the backlog began to count, seconds since 1970.
        now: Monotonic seconds.
    """
    ready = {kind: _ready(amount, sizes) for kind, amount in backlog.ready.items()}
    running = {kind: _running(kind, amount, backlog, sizes, workers) for kind, amount in backlog.running.items()}
    rates = [worker_rate(ledger) for ledger in workers if ledger.status.state == "ready"]
    return ModelDemand(
        model=model,
        latency_ready=ready["latency"],
        latency_running=running["latency"],
        throughput_ready=ready["throughput"],
        throughput_running=running["throughput"],
        arrived=_work(backlog.arrived),
        finished=_work(backlog.finished),
        since=since,
        oldest_wait_s=backlog.oldest_wait_s(now),
        predicted_wait_s=_predict_wait([*ready.values()], [*running.values()], workers, now),
        tenants=_tenants(backlog.tenants_ready, backlog.tenants_running),
        workers=rates,
    )


def _work(amount: Amount) -> Work:
    return Work(
        num_generations=amount.num,
        num_prefill_tokens=round(amount.num_prompt),
        num_output_tokens=round(amount.num_output),
    )


def _ready(amount: Amount, sizes: SizeModel) -> Work:
    return Work(
        num_generations=amount.num,
        num_prefill_tokens=round(amount.num_prompt / sizes.characters_per_token),
        num_output_tokens=round(amount.num_output * sizes.output_share),
    )


def _running(kind: Kind, amount: Amount, backlog: Backlog, sizes: SizeModel, workers: Collection[WorkerLedger]) -> Work:
    """The workers' loads know what is left of all that runs; each class has its share of the output."""
    num_unread = sum(ledger.load.num_unread_latency for ledger in workers)
    if kind == "throughput":
        num_unread = sum(ledger.load.num_unread for ledger in workers) - num_unread
    num_left = sum(ledger.load.num_output - ledger.load.num_generated for ledger in workers)
    total = sum(each.num_output for each in backlog.running.values())
    return Work(
        num_generations=amount.num,
        num_prefill_tokens=num_unread,
        num_output_tokens=round(num_left * amount.num_output / total) if total else 0,
    )


def _tenants(ready: Counter[str], running: Counter[str]) -> list[TenantDemand]:
    """Those with most work, the most first."""
    num = ready + running
    names = heapq.nlargest(MAX_TENANTS, num, key=lambda name: (num[name], name))
    return [TenantDemand(tenant=name, num_ready=ready[name], num_running=running[name]) for name in names]


# -- workers ---------------------------------------------------------------------------------------------------------


def worker_rate(ledger: WorkerLedger) -> WorkerRate:
    """What a worker can do; its speed only if it has worked and has something now, so that both is known."""
    load, num_slots = ledger.load, ledger.status.num_slots
    engine = ledger.status.engine
    if not len(load) or engine is None or not engine.num_steps:
        return WorkerRate(worker=ledger.worker, num_slots=num_slots, num_running=len(load), num_full=num_slots)
    num_full = _num_full(ledger)
    step_s = load.times.step_s(num_full * load.num_read / len(load))
    return WorkerRate(
        worker=ledger.worker,
        num_slots=num_slots,
        num_running=len(load),
        num_full=num_full,
        prefill_tokens_per_s=1 / load.times.prefill_s,
        output_tokens_per_s=num_full / step_s,
    )


def _num_full(ledger: WorkerLedger) -> int:
    """How many like those that run there run at a time: as many as its cache holds, and as their targets allow."""
    load = ledger.load
    num_full = float(max(1, ledger.status.num_slots))
    if load.capacity and load.num_resident:
        num_full = min(num_full, load.capacity * len(load) / load.num_resident)
    if load.tpot_target_s is not None and load.num_read:
        num_full = min(num_full, load.max_read() * len(load) / load.num_read)
    return max(1, int(num_full))


def _predict_wait(
    ready: list[Work], running: list[Work], workers: Collection[WorkerLedger], now: float
) -> float | None:
    """Seconds until one that came now had a slot: those before it that have none need the slots of others first."""
    able = [ledger for ledger in workers if ledger.status.state == "ready"]
    if not able:
        return None
    backlog_s = min(ledger.load.backlog_s(now) for ledger in able)
    num_ready = sum(each.num_generations for each in ready)
    num_before = num_ready + 1 - sum(max(0, ledger.num_free) for ledger in able)
    if num_before <= 0:
        return backlog_s
    num = num_ready + sum(each.num_generations for each in running)
    return backlog_s + num_before * _seconds([*ready, *running], able) / max(1, num) / len(able)


def _seconds(works: list[Work], workers: list[WorkerLedger]) -> float:
    """What the mean worker needs for some work, with all its slots in use."""
    num_prefill = sum(each.num_prefill_tokens for each in works)
    num_output = sum(each.num_output_tokens for each in works)
    seconds = 0.0
    for ledger in workers:
        load, num_full = ledger.load, _num_full(ledger)
        num_read = num_full * load.num_read / len(load) if len(load) else 0.0
        seconds += num_prefill * load.times.prefill_s + num_output * load.times.step_s(num_read) / num_full
    return seconds / len(workers)

"""The tables of `parrot-mq status`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from parrot_mq.cli.workers import describe_state
from parrot_mq.messages import AutoscalerStatus, ModelDemand, ServiceReport, SlotStatus, Work, WorkerStatus

__all__ = ["Overview", "draw_overview"]

MAX_SHOWN_DECISIONS = 5
MAX_SHOWN_TENANTS = 10
MAX_SHOWN_FUNCTIONS = 20


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All that is known at a moment.

    Attributes:
        at: When, seconds since 1970.
        report: What the coordinator says; None if none answers.
        units: Units of workers on this machine, as the service manager says, if no autoscaler tells of them.
        problem: What could not be found out.
    """

    at: float
    report: ServiceReport | None = None
    units: list[SlotStatus] = field(default_factory=list)
    problem: str = ""

    @property
    def workers(self) -> list[WorkerStatus]:
        """All workers that were heard of."""
        return list(self.report.workers) if self.report is not None else []

    @property
    def autoscalers(self) -> list[AutoscalerStatus]:
        """All autoscalers that were heard of."""
        return list(self.report.autoscalers) if self.report is not None else []


def draw_overview(now: Overview, before: Overview | None = None) -> RenderableType:
    """All tables that have something to say; rates since `before`."""
    parts: list[RenderableType] = [Text(_headline(now))]
    if now.problem:
        parts.append(Text(now.problem, style="red"))
    tables = [_models(now), _functions(now), _slots(now, before), _tenants(now), _decisions(now)]
    parts += [part for table in tables if table.row_count for part in (Text(), table)]
    return Group(*parts)


def _headline(now: Overview) -> str:
    if now.report is None:
        return "no coordinator answers"
    num_ready = sum(worker.state == "ready" for worker in now.workers)
    parts = [f"{num_ready} of {len(now.workers)} workers ready", f"{now.report.num_unfinished:,} tasks unfinished"]
    parts += [f"led by {now.report.coordinator}"] if now.report.coordinator else []
    for each in now.autoscalers:
        parts.append(
            f"scaled by {each.autoscaler}" + (f" (nothing is changed: {each.problem})" if each.problem else "")
        )
    return ", ".join(parts)


def _table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    return table


# -- models and tenants ----------------------------------------------------------------------------------------------


def _models(now: Overview) -> Table:
    right = (
        "workers",
        "latency waits",
        "runs",
        "throughput waits",
        "runs ",
        "tokens to do",
        "oldest",
        "a new one waits",
    )
    table = _table("model", *right, right=right)
    for demand in now.report.demand if now.report is not None else ():
        num_ready = sum(worker.model == demand.model and worker.state == "ready" for worker in now.workers)
        table.add_row(
            demand.model,
            str(num_ready),
            *(
                f"{work.num_generations:,}"
                for work in (
                    demand.latency_ready,
                    demand.latency_running,
                    demand.throughput_ready,
                    demand.throughput_running,
                )
            ),
            f"{sum(map(_tokens, _to_do(demand))):,}",
            _seconds(demand.oldest_wait_s) if demand.oldest_wait_s else "",
            "until one starts" if demand.predicted_wait_s is None else _seconds(demand.predicted_wait_s),
        )
    return table


def _to_do(demand: ModelDemand) -> tuple[Work, ...]:
    return demand.latency_ready, demand.latency_running, demand.throughput_ready, demand.throughput_running


def _tokens(work: Work) -> int:
    return work.num_prefill_tokens + work.num_output_tokens


def _functions(now: Overview) -> Table:
    right = ("waits", "runs", "returned", "failed", "attempts lost", "takes")
    table = _table("native function", *right, right=right)
    for each in now.report.functions[:MAX_SHOWN_FUNCTIONS] if now.report is not None else ():
        numbers = (each.num_waiting, each.num_running, each.num_returned, each.num_failed, each.num_lost)
        table.add_row(each.function, *map("{:,}".format, numbers), _seconds(each.mean_s) if each.num_returned else "")
    return table


def _tenants(now: Overview) -> Table:
    """Only if there is more than one: else the table of models says it all."""
    table = _table("tenant", "model", "waits", "runs", right=("waits", "runs"))
    demands = now.report.demand if now.report is not None else []
    if len({tenant.tenant for demand in demands for tenant in demand.tenants}) < 2:
        return table
    for demand in demands:
        for tenant in demand.tenants[:MAX_SHOWN_TENANTS]:
            table.add_row(tenant.tenant, demand.model, f"{tenant.num_ready:,}", f"{tenant.num_running:,}")
        if (num_more := len(demand.tenants) - MAX_SHOWN_TENANTS) > 0:
            table.add_row(f"and {num_more:,} more", demand.model, "", "")
    return table


# -- slots and workers -----------------------------------------------------------------------------------------------


def _slots(now: Overview, before: Overview | None) -> Table:
    right = ("slots", "generated")
    table = _table("slot", "worker", "model", "state", "since", "by", *right, "says", right=right)
    workers = {worker.worker: worker for worker in now.workers}
    for slot in _known_slots(now):
        worker = workers.pop(slot.worker, None)
        table.add_row(
            slot.unit.removesuffix(".service"),
            slot.worker,
            slot.model,
            _state(slot, worker, now.at),
            _seconds(now.at - slot.since) if slot.since and slot.owner else "",
            slot.owner,
            *_load(worker, before, now),
            slot.status,
        )
    for worker in sorted(workers.values(), key=lambda worker: (worker.model, worker.worker)):
        table.add_row("", worker.worker, worker.model, describe_state(worker), "", "", *_load(worker, before, now), "")
    return table


def _known_slots(now: Overview) -> Iterator[SlotStatus]:
    for autoscaler in now.autoscalers:
        yield from sorted(autoscaler.slots, key=lambda slot: slot.slot)
    yield from now.units


def _state(slot: SlotStatus, worker: WorkerStatus | None, at: float) -> str:
    words: str = slot.state
    if worker is not None and worker.state == "loading":
        words = describe_state(worker)
    elif worker is not None and slot.state == "running" and worker.state != "ready":
        words = worker.state
    if slot.num_restarts and slot.owner:
        words += f", restarted {slot.num_restarts} times"
    if slot.held_until > at:
        words += f", left alone for {_seconds(slot.held_until - at)}: {slot.reason}"
    return words


def _load(worker: WorkerStatus | None, before: Overview | None, now: Overview) -> tuple[str, str]:
    if worker is None:
        return "", ""
    slots = f"{len(worker.running)}/{worker.num_slots}"
    if worker.engine is None:
        return slots, ""
    num_tokens = worker.engine.num_output_tokens
    former = _former(worker, before)
    if former is None or before is None or former > num_tokens or now.at <= before.at:
        return slots, f"{num_tokens:,}"
    return slots, f"{(num_tokens - former) / (now.at - before.at):,.0f}/s"


def _former(worker: WorkerStatus, before: Overview | None) -> int | None:
    """Tokens that it had generated by then."""
    for each in before.workers if before is not None else ():
        if each.worker == worker.worker and each.engine is not None:
            return each.engine.num_output_tokens
    return None


# -- decisions -------------------------------------------------------------------------------------------------------


def _decisions(now: Overview) -> Table:
    table = _table("decided", "model", "", "why", "done", right=("decided",))
    decisions = [decision for autoscaler in now.autoscalers for decision in autoscaler.decisions]
    for each in sorted(decisions, key=lambda decision: decision.at)[-MAX_SHOWN_DECISIONS:]:
        table.add_row(
            time.strftime("%H:%M:%S", time.localtime(each.at)),
            each.model,
            f"{each.num_workers} → {each.target}" if each.target != each.num_workers else each.kind,
            each.reason,
            _lines(each.actions),
        )
    return table


def _lines(actions: Iterable[str]) -> str:
    return "\n".join(action.removesuffix(".service") for action in actions)


def _seconds(seconds: float) -> str:
    """A duration for people, in the unit that fits."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(0.0, seconds):.1f} s"

"""Workers in virtual time: they load, batch, share prefixes, drain, and fail to start."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

from parrot_mq.autoscale.workload import Arrival
from parrot_mq.messages import Work, WorkerRate

__all__ = ["Engine", "Pool", "SimulatedWorker"]

WorkerState = Literal["loading", "ready", "draining"]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How fast a worker is: a step takes `base_s + read_s * tokens of what runs`, and prompts are read between steps.

    Attributes:
        num_slots: Generations that run at a time.

    Source of the times: LLaMA-7B on one A100; Parrot (OSDI'24), Figure 16 and section 8.3.
    """

    num_slots: int = 8
    base_s: float = 16.8e-3
    read_s: float = 0.346e-6
    prefill_s: float = 1.37e-4


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    """One worker.

    Attributes:
        slot: Where it runs.
        started_at: When it was started.
        changes_at: When it is ready, or its start fails.
        is_bad: It will never be ready.
        ready_since: Since when it is ready; None before.
    """

    engine: Engine
    slot: int
    started_at: float
    changes_at: float
    is_bad: bool
    state: WorkerState = "loading"
    ready_since: float | None = None
    prefixes: set[str] = field(default_factory=set)
    num_unread: float = 0.0
    num_running_kind: dict[str, int] = field(default_factory=lambda: {"latency": 0, "throughput": 0})
    _level: float = 0.0  # tokens that anybody who has run since the beginning would have
    _ends: list[tuple[float, int, float, Arrival]] = field(default_factory=list)  # heap: level at the end, and begin
    _num_context: float = 0.0  # prompts of what runs, less the levels at which they began
    _numbers: count[int] = field(default_factory=count)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def num_free(self) -> int:
        """Generations that it takes now."""
        return self.engine.num_slots - len(self._ends) if self.state == "ready" else 0

    @property
    def num_left(self) -> float:
        """Tokens that are still to be generated."""
        return sum(end for end, *_ in self._ends) - len(self._ends) * self._level

    def take(self, arrival: Arrival) -> None:
        """Begin a generation; a prefix that is here need not be read."""
        self.num_unread += arrival.num_prompt
        if arrival.prefix and arrival.prefix not in self.prefixes:
            self.prefixes.add(arrival.prefix)
            self.num_unread += arrival.num_prefix
        self._num_context += arrival.num_prompt + arrival.num_prefix - self._level
        self.num_running_kind[arrival.kind] += 1
        end = self._level + arrival.num_output
        heapq.heappush(self._ends, (end, next(self._numbers), self._level, arrival))

    def advance(self, elapsed_s: float) -> list[Arrival]:
        """Work for a while. Returns what has ended."""
        read_s = min(elapsed_s, self.num_unread * self.engine.prefill_s)
        self.num_unread -= read_s / self.engine.prefill_s
        if not self._ends:
            return []
        step_s = self._step_s(self._num_context + len(self._ends) * self._level)
        self._level += (elapsed_s - read_s) / step_s
        ended = []
        while self._ends and self._ends[0][0] <= self._level:
            _, _, begin, arrival = heapq.heappop(self._ends)
            self._num_context -= arrival.num_prompt + arrival.num_prefix - begin
            self.num_running_kind[arrival.kind] -= 1
            ended.append(arrival)
        return ended

    def rate(self) -> WorkerRate:
        """What a dispatcher would say of it."""
        engine, num = self.engine, len(self._ends)
        rate = WorkerRate(
            worker=f"worker-{self.slot}", num_slots=engine.num_slots, num_running=num, num_full=engine.num_slots
        )
        if not num:
            return rate
        context = (self._num_context + num * self._level) / num
        return WorkerRate(
            worker=rate.worker,
            num_slots=engine.num_slots,
            num_running=num,
            num_full=engine.num_slots,
            prefill_tokens_per_s=1 / engine.prefill_s,
            output_tokens_per_s=engine.num_slots / self._step_s(engine.num_slots * context),
        )

    def _step_s(self, num_read: float) -> float:
        return self.engine.base_s + self.engine.read_s * num_read


class Pool:
    """The slots of a machine, and who runs in them. What fails to start is tried again later and later.

    Args:
        engine: Of every worker.
        num_slots: Workers at a time.
        bad_slots: Of these slots, those in which no start succeeds.
        load_s: Seconds from the start of a worker until it is ready.
        fail_s: Seconds until a start fails.
    """

    QUARANTINE_S = 60.0
    MAX_QUARANTINE_S = 1800.0

    def __init__(self, engine: Engine, *, num_slots: int, bad_slots: int, load_s: float, fail_s: float = 10.0) -> None:
        self._engine = engine
        self._num_slots = num_slots
        self._bad_slots = bad_slots
        self._load_s = load_s
        self._fail_s = fail_s
        self._failures: dict[int, tuple[int, float]] = {}  # by slot: how many in a row, and until when it is left alone
        self.workers: dict[int, SimulatedWorker] = {}
        self.num_starts = 0
        self.gpu_s = 0.0
        self.loads_s: list[float] = []

    def num(self, state: WorkerState) -> int:
        """Workers in a state."""
        return sum(worker.state == state for worker in self.workers.values())

    def num_usable(self, now: float) -> int:
        """Workers that could run now."""
        return self._num_slots - sum(until > now for _, until in self._failures.values())

    def advance(self, now: float, elapsed_s: float) -> list[Arrival]:
        """Let time pass until `now`. Returns what has ended."""
        ended = []
        for slot, worker in list(self.workers.items()):
            self.gpu_s += elapsed_s
            if worker.state == "loading" and worker.changes_at <= now:
                self._end_start(worker, now)
            ended += worker.advance(elapsed_s)
            if worker.state == "draining" and not len(worker):
                del self.workers[slot]
        return ended

    def scale(self, num: int, now: float, *, takes_back: bool) -> None:
        """Start or stop workers until so many are there that do not drain.

        Args:
            num: Ready and loading ones.
            now: The time.
            takes_back: Whether those that drain can be taken back.
        """
        staying = [worker for worker in self.workers.values() if worker.state != "draining"]
        for worker in self.workers.values():
            if takes_back and worker.state == "draining" and len(staying) < num:
                worker.state = "ready"
                staying.append(worker)
        for slot in range(self._num_slots):
            if len(staying) >= num:
                break
            if slot not in self.workers and self._failures.get(slot, (0, now))[1] <= now:
                staying.append(self._start(slot, now))
        staying.sort(key=lambda worker: (worker.state == "ready", len(worker), -worker.started_at))
        for worker in staying[: max(0, len(staying) - num)]:
            if worker.state == "loading":
                del self.workers[worker.slot]
            else:
                worker.state = "draining"

    def _start(self, slot: int, now: float) -> SimulatedWorker:
        self.num_starts += 1
        is_bad = slot < self._bad_slots
        changes_at = now + (self._fail_s if is_bad else self._load_s)
        worker = self.workers[slot] = SimulatedWorker(self._engine, slot, now, changes_at, is_bad)
        return worker

    def _end_start(self, worker: SimulatedWorker, now: float) -> None:
        if worker.is_bad:
            num = self._failures.get(worker.slot, (0, 0.0))[0]
            self._failures[worker.slot] = num + 1, now + min(self.MAX_QUARANTINE_S, self.QUARANTINE_S * 2**num)
            del self.workers[worker.slot]
        else:
            worker.state, worker.ready_since = "ready", now
            self.loads_s.append(now - worker.started_at)

    def running(self, kind: str) -> Work:
        """What runs of a class."""
        num = sum(worker.num_running_kind[kind] for worker in self.workers.values())
        total = sum(len(worker) for worker in self.workers.values())
        left = sum(worker.num_left for worker in self.workers.values())
        unread = sum(worker.num_unread for worker in self.workers.values())
        share = num / total if total else 0.0
        return Work(
            num_generations=num, num_prefill_tokens=round(unread * share), num_output_tokens=round(left * share)
        )

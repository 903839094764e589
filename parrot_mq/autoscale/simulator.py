"""A service in virtual time, to see what a scaler makes of some work: how long it waits, and what that costs."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from parrot_mq.autoscale.config import PolicyConfig
from parrot_mq.autoscale.observation import Decision, Observation
from parrot_mq.autoscale.policy import PolicyState, decide
from parrot_mq.autoscale.simulated_pool import Engine, Pool
from parrot_mq.autoscale.workload import Arrival, Scenario
from parrot_mq.messages import ModelDemand, Work

__all__ = ["Moment", "Outcome", "Policy", "Scaler", "simulate"]

Scaler = Callable[[Observation], Decision]

STEP_S = 0.5
"""Virtual time passes in such steps; a shorter wait is none."""
TICK_S = 2.0
"""So often a scaler is asked."""
MAX_TAIL_S = 4 * 3600.0
"""What has not ended so long after the last arrival never will."""
_OUTPUT_WEIGHT = 0.05


@dataclass(slots=True)
class Policy:
    """The policy of this package as a scaler.

    Attributes:
        config: Its settings.
        state: What it remembers.
    """

    config: PolicyConfig
    state: PolicyState = field(default_factory=PolicyState)

    def __call__(self, seen: Observation) -> Decision:
        """Decide."""
        return decide(self.state, seen, self.config)


class Moment(NamedTuple):
    """What was seen and decided at a tick."""

    seen: Observation
    decision: Decision


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
        waits_s: Seconds that each generation waited for a slot, in the order in which they began.
        latency_waits_s: The same, only of what somebody waits for.
        gpu_hours: Hours that workers ran, loading and draining too.
        num_starts: Workers that were started.
        num_unfinished: Generations that never ended.
        moments: All ticks, if they are wanted.
    """

    waits_s: list[float]
    latency_waits_s: list[float]
    gpu_hours: float
    num_starts: int
    num_unfinished: int
    moments: list[Moment]

    @property
    def p95_s(self) -> float:
        """95 of 100 generations that somebody waits for (of all, if there is none) did not wait longer."""
        return percentile(self.latency_waits_s or self.waits_s, 0.95)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of them that so many do not exceed; 0 if there is none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def simulate(
    arrivals: Sequence[Arrival],
    scaler: Scaler,
    *,
    scenario: Scenario,
    num_slots: int = 8,
    load_s: float = 60.0,
    engine: Engine | None = None,
    takes_back: bool = True,
    keeps_moments: bool = False,
) -> Outcome:
    """Run a service until all that comes has ended, and all is quiet until the scenario is over.

    Args:
        arrivals: What comes, in the order of time.
        scaler: Who says how many workers there should be.
        scenario: What goes wrong meanwhile, and how long it lasts.
        num_slots: Most workers at a time.
        load_s: Seconds that a worker takes to be ready, if the scenario does not say.
        engine: How fast a worker is.
        takes_back: Whether a worker that drains can be taken back, as the scaler believes.
        keeps_moments: Whether to return what was seen and decided at every tick.
    """
    pool = Pool(
        engine or Engine(),
        num_slots=num_slots,
        bad_slots=scenario.bad_slots,
        load_s=load_s if scenario.load_s is None else scenario.load_s,
    )
    return _Service(arrivals, scaler, scenario, pool, takes_back=takes_back, keeps_moments=keeps_moments).run()


class _Service:
    """The queue before a pool, and the figures that its scaler sees."""

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        scaler: Scaler,
        scenario: Scenario,
        pool: Pool,
        *,
        takes_back: bool,
        keeps_moments: bool,
    ) -> None:
        self._coming = deque(arrivals)
        self._last_at = arrivals[-1].at if arrivals else 0.0
        self._scaler = scaler
        self._scenario = scenario
        self._pool = pool
        self._takes_back = takes_back
        self._keeps_moments = keeps_moments
        self._ready: dict[str, deque[Arrival]] = {"latency": deque(), "throughput": deque()}
        self._num_waiting: Counter[str] = Counter()  # by prefix
        self._prefix_tokens: dict[str, int] = {}
        self._own_tokens: Counter[str] = Counter()  # of prompts that wait, by class
        self._max_tokens: Counter[str] = Counter()  # of outputs that wait, by class
        self._output_share = 1.0
        self._arrived = [0, 0, 0.0]
        self._num_finished = 0
        self._demand: ModelDemand | None = None
        self._seen_at = 0.0
        self._outcome = Outcome([], [], 0.0, 0, 0, [])

    def run(self) -> Outcome:
        """Let it all happen."""
        now, asked_at = 0.0, -math.inf
        while now < self._scenario.duration_s or (self._is_busy and now < self._last_at + MAX_TAIL_S):
            now += STEP_S
            self._arrive(now)
            for ended in self._pool.advance(now, STEP_S):
                self._learn(ended)
            self._dispatch(now)
            if now - asked_at >= TICK_S:
                asked_at = now
                self._scale(now)
        num_unfinished = len(self._coming) + sum(map(len, self._ready.values()))
        num_unfinished += sum(len(worker) for worker in self._pool.workers.values())
        return self._outcome._replace(
            gpu_hours=self._pool.gpu_s / 3600, num_starts=self._pool.num_starts, num_unfinished=num_unfinished
        )

    @property
    def _is_busy(self) -> bool:
        return bool(
            self._coming or any(self._ready.values()) or any(len(worker) for worker in self._pool.workers.values())
        )

    def _arrive(self, now: float) -> None:
        while self._coming and self._coming[0].at <= now:
            arrival = self._coming.popleft()
            self._ready[arrival.kind].append(arrival)
            is_new = not self._num_waiting[arrival.prefix] and not self._is_held(arrival.prefix)
            self._arrived[0] += 1
            self._arrived[1] += arrival.num_prompt + is_new * arrival.num_prefix
            self._arrived[2] += arrival.max_tokens * self._output_share
            self._prefix_tokens[arrival.prefix] = arrival.num_prefix
            self._count(arrival, 1)

    def _count(self, arrival: Arrival, sign: int) -> None:
        """It waits, or does so no more."""
        self._num_waiting[arrival.prefix] += sign
        self._own_tokens[arrival.kind] += sign * arrival.num_prompt
        self._max_tokens[arrival.kind] += sign * arrival.max_tokens

    def _is_held(self, prefix: str) -> bool:
        return any(prefix in worker.prefixes for worker in self._pool.workers.values())

    def _learn(self, ended: Arrival) -> None:
        self._num_finished += 1
        self._output_share += _OUTPUT_WEIGHT * (ended.num_output / ended.max_tokens - self._output_share)

    def _dispatch(self, now: float) -> None:
        """What somebody waits for goes first; to who has its prefix, else to who has most room."""
        for kind, queue in self._ready.items():
            while queue and (free := [worker for worker in self._pool.workers.values() if worker.num_free > 0]):
                arrival = queue.popleft()
                max(free, key=lambda worker: (arrival.prefix in worker.prefixes, worker.num_free)).take(arrival)
                self._count(arrival, -1)
                wait_s = max(0.0, now - STEP_S - arrival.at)
                self._outcome.waits_s.append(wait_s)
                if kind == "latency":
                    self._outcome.latency_waits_s.append(wait_s)

    # -- what the scaler sees ----------------------------------------------------------------------------------------

    def _scale(self, now: float) -> None:
        if not any(begin <= now < end for begin, end in self._scenario.outages):
            self._demand, self._seen_at = self._measure(now), now
        pool = self._pool
        seen = Observation(
            now=now,
            demand=self._demand,
            age_s=now - self._seen_at,
            num_ready=pool.num("ready"),
            num_starting=pool.num("loading"),
            num_stopping=pool.num("draining") if self._takes_back else 0,
            num_young=sum(_is_young(worker.ready_since, now) for worker in pool.workers.values()),
            num_usable=pool.num_usable(now),
            loads_s=tuple(pool.loads_s),
        )
        pool.loads_s.clear()
        decision = self._scaler(seen)
        if self._keeps_moments:
            self._outcome.moments.append(Moment(seen, decision))
        if decision.change:
            pool.scale(decision.target, now, takes_back=self._takes_back)

    def _measure(self, now: float) -> ModelDemand:
        pool = self._pool
        oldest = min((queue[0].at for queue in self._ready.values() if queue), default=now)
        num_arrived, num_prefill, num_output = self._arrived
        return ModelDemand(
            model="model",
            latency_ready=self._measure_ready("latency"),
            latency_running=pool.running("latency"),
            throughput_ready=self._measure_ready("throughput"),
            throughput_running=pool.running("throughput"),
            arrived=Work(
                num_generations=int(num_arrived),
                num_prefill_tokens=int(num_prefill),
                num_output_tokens=round(num_output),
            ),
            finished=Work(num_generations=self._num_finished),
            since=1.0,
            oldest_wait_s=now - oldest,
            workers=[worker.rate() for worker in pool.workers.values() if worker.state == "ready"],
        )

    def _measure_ready(self, kind: str) -> Work:
        """What waits of a class. What several prompts begin with is counted with those that somebody waits for."""
        is_first = kind == "latency" or not self._ready["latency"]
        prefixes = (each for each, num in self._num_waiting.items() if is_first and num and not self._is_held(each))
        return Work(
            num_generations=len(self._ready[kind]),
            num_prefill_tokens=self._own_tokens[kind] + sum(self._prefix_tokens[each] for each in prefixes),
            num_output_tokens=round(self._max_tokens[kind] * self._output_share),
        )


def _is_young(ready_since: float | None, now: float, min_uptime_s: float = 120.0) -> bool:
    return ready_since is not None and now - ready_since < min_uptime_s

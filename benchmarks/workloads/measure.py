"""Runs cases: a system that serves a scenario over a network, in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.workloads.baselines import run_baseline
from benchmarks.workloads.metrics import Statistics, summarise
from benchmarks.workloads.ours import run_ours
from benchmarks.workloads.scenarios import FIGURES, Scenario
from benchmarks.workloads.systems import ABLATIONS, BASELINES, OURS, SYSTEMS, A
from parrot_mq.observability import configure_logging

__all__ = ["Case", "Measurement", "cases_of", "measure_all", "run_case"]

NUM_SLOTS = 256
"""Requests that an engine runs at a time: the default of the engine that most people run."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured at once.

    Attributes:
        figure: Name of the figure.
        index: Which of its scenarios.
        system: Name of the system.
        delay_ms: Of the network between client and service, there and back.
        is_quick: Whether the scenario is a short one.
    """

    figure: str
    index: int
    system: str
    delay_ms: float
    is_quick: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What came out of a case.

    Attributes:
        figure: Name of the figure.
        system: Name of the system.
        x: The point on the figure's axis.
        delay_ms: Of the network.
        kinds: The metrics by kind of job.
        wall_s: Seconds that it took to find out.
    """

    figure: str
    system: str
    x: float
    delay_ms: float
    kinds: dict[str, Statistics]
    wall_s: float = 0.0


def cases_of(figure: str, delays_ms: Sequence[float], *, is_quick: bool) -> Iterator[Case]:
    """Everyone at every point and the largest delay; at the last point ours and (a) at every delay, and each mechanism
    switched off.
    """
    last = len(_scenarios(figure, is_quick)) - 1
    for index in range(last + 1):
        for system in (OURS, *BASELINES, *(ABLATIONS if index == last else ())):
            has_delays = index == last and system in (OURS, A)
            for delay_ms in delays_ms if has_delays else (max(delays_ms),):
                yield Case(figure, index, system.name, delay_ms, is_quick)


def measure_all(cases: Sequence[Case], *, num_processes: int) -> Iterator[Measurement]:
    """Run cases in some processes; yields in the order in which they end."""
    if num_processes == 1:
        configure_logging("error")
        yield from map(run_case, cases)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, context, configure_logging, ("error",)) as pool:
        for done in as_completed([pool.submit(run_case, case) for case in cases]):
            yield done.result()


def run_case(case: Case) -> Measurement:
    """Run one case to its end."""
    began_s = time.perf_counter()
    scenario = _scenarios(case.figure, case.is_quick)[case.index]
    system = SYSTEMS[case.system]
    run = run_baseline if system.mechanisms is None else run_ours
    jobs = [
        run(programs, scenario, system, delay_s=case.delay_ms / 1000, num_slots=NUM_SLOTS) for programs in scenario.runs
    ]
    return Measurement(
        figure=case.figure,
        system=case.system,
        x=scenario.x,
        delay_ms=case.delay_ms,
        kinds=summarise(jobs),
        wall_s=time.perf_counter() - began_s,
    )


@lru_cache(maxsize=2)
def _scenarios(figure: str, is_quick: bool) -> Sequence[Scenario]:
    return FIGURES[figure].scenarios(is_quick)

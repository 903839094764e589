"""Placeholder until the simulated worker is there."""

from benchmarks.workloads.programs import Program
from benchmarks.workloads.results import Job
from benchmarks.workloads.scenarios import Scenario
from benchmarks.workloads.systems import System


def run_ours(
    programs: tuple[Program, ...], scenario: Scenario, system: System, *, delay_s: float, num_slots: int
) -> list[Job]:
    raise NotImplementedError

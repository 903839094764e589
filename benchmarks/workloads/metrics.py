"""What came out of a run: when each job ended, and the paper's metrics of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

__all__ = ["Generated", "Job", "Statistics", "summarise"]


@dataclass(frozen=True, slots=True)
class Generated:
    """When a worker generated an output: the first and the last token, in seconds of the run."""

    num_tokens: int
    first_at_s: float
    last_at_s: float

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first; None if there is only one."""
        return (self.last_at_s - self.first_at_s) / (self.num_tokens - 1) if self.num_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class Job:
    """A program that has ended, as its client saw it.

    Attributes:
        kind: Which kind of application it is.
        num_output_tokens: Of all its calls.
        arrived_s: When its client began.
        ended_s: When the client had all that it wanted.
        generated: Of its calls.
    """

    kind: str
    num_output_tokens: int
    arrived_s: float
    ended_s: float
    generated: tuple[Generated, ...] = ()

    @property
    def duration_s(self) -> float:
        """Job completion time."""
        return self.ended_s - self.arrived_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The metrics of the jobs of one kind, over all runs of a scenario.

    Attributes:
        num_jobs: How many jobs.
        jct_s: Mean job completion time.
        jct_p99_s: Its 99th percentile.
        makespan_s: From the first arrival to the last end, mean over the runs.
        normalized_ms: Mean of job completion time per output token.
        normalized_p99_ms: Its 99th percentile.
        tpot_ms: Mean time per output token after the first, over calls.
    """

    num_jobs: int
    jct_s: float
    jct_p99_s: float
    makespan_s: float
    normalized_ms: float
    normalized_p99_ms: float
    tpot_ms: float


def summarise(runs: Sequence[Sequence[Job]]) -> dict[str, Statistics]:
    """The metrics by kind of job."""
    kinds = dict.fromkeys(job.kind for run in runs for job in run)
    return {kind: _statistics([[job for job in run if job.kind == kind] for run in runs]) for kind in kinds}


def _statistics(runs: Iterable[Sequence[Job]]) -> Statistics:
    runs = [run for run in runs if run]
    jobs = [job for run in runs for job in run]
    durations = [job.duration_s for job in jobs]
    normalized = [1000 * job.duration_s / job.num_output_tokens for job in jobs]
    tpots = [tpot for job in jobs for one in job.generated if (tpot := one.tpot_s) is not None]
    return Statistics(
        num_jobs=len(jobs),
        jct_s=fmean(durations),
        jct_p99_s=_percentile(durations, 0.99),
        makespan_s=fmean(max(job.ended_s for job in run) - min(job.arrived_s for job in run) for run in runs),
        normalized_ms=fmean(normalized),
        normalized_p99_ms=_percentile(normalized, 0.99),
        tpot_ms=1000 * fmean(tpots) if tpots else 0.0,
    )


def _percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by `share` of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def rounded(statistics: Statistics) -> dict[str, Any]:
    """For a JSON file."""
    return {name: round(getattr(statistics, name), 3) for name in Statistics.__dataclass_fields__}

"""Settings of the scaling policy."""

from __future__ import annotations

from dataclasses import dataclass

from parrot_mq.errors import ConfigurationError

__all__ = ["PolicyConfig"]

_NOT_NEGATIVE = (
    "headroom",
    "keep_loads",
    "up_delay_s",
    "down_window_s",
    "down_step_s",
    "min_uptime_s",
    "idle_to_zero_s",
)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Settings of the policy for one model, checked when they are made.

    Attributes:
        min_workers: Never fewer.
        max_workers: Never more.
        latency_wait_s: Within so long, what somebody waits for should have a worker, as far as workers are ready.
        throughput_wait_s: The same for what only has to be finished some time.
        headroom: Slots that are kept free for chance, as a multiple of the square root of those in use.
        stable_window_s: Over so long the arrivals are averaged.
        panic_window_s: Over so long, to see a burst.
        panic_factor: There is a burst when so many times the workers that there are seem to be needed.
        up_delay_s: More workers have to be wanted for so long, but not in a burst.
        up_factor: In one step at most so many times the workers that there are, and at least one more.
        keep_loads: Never fewer workers than what came has needed within so many times the time that loading takes.
        down_window_s: But that is never longer than this, nor shorter than `min_uptime_s`.
        down_step_s: Then half of those that are not needed are given up, and within so long no more.
        min_uptime_s: A worker that is ready for less is not stopped.
        idle_to_zero_s: The last worker is stopped after so long without any work.
        max_age_s: Figures that are older say nothing.
        default_load_s: Seconds that a worker takes to be ready, before one was seen.
        default_slots: Generations that a worker runs at a time, before one was seen.
    """

    min_workers: int = 0
    max_workers: int = 8
    latency_wait_s: float = 30.0
    throughput_wait_s: float = 120.0
    headroom: float = 2.5
    stable_window_s: float = 60.0
    panic_window_s: float = 6.0
    panic_factor: float = 2.0
    up_delay_s: float = 6.0
    up_factor: float = 2.0
    keep_loads: float = 4.0
    down_window_s: float = 300.0
    down_step_s: float = 60.0
    min_uptime_s: float = 120.0
    idle_to_zero_s: float = 300.0
    max_age_s: float = 15.0
    default_load_s: float = 60.0
    default_slots: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.min_workers <= self.max_workers:
            raise ConfigurationError(
                f"workers must be 0 <= min_workers <= max_workers, got {self.min_workers} and {self.max_workers}"
            )
        for name in ("latency_wait_s", "throughput_wait_s", "stable_window_s", "panic_window_s", "max_age_s"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} must be above 0 seconds, got {getattr(self, name)}")
        for name in (
            "headroom",
            "keep_loads",
            "up_delay_s",
            "down_window_s",
            "down_step_s",
            "min_uptime_s",
            "idle_to_zero_s",
        ):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("panic_factor", "up_factor", "default_load_s", "default_slots"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")

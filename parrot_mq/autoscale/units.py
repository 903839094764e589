"""What the autoscaler needs of a service manager: the port behind which systemd, or a test, is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

__all__ = ["Unit", "UnitPhase", "Units"]


class UnitPhase(Enum):
    """What a unit does now."""

    OFF = "off"
    """It does not run."""
    STARTING = "starting"
    """Its process runs, or is about to, and is not ready."""
    RESTARTING = "restarting"
    """It ended without being asked to, and waits for its next start."""
    RUNNING = "running"
    """It is ready."""
    STOPPING = "stopping"
    """It was asked to stop, and drains."""
    FAILED = "failed"
    """It ended without being asked to, and is not started again."""
    UNAVAILABLE = "unavailable"
    """It cannot be started: there is no such unit, or somebody has masked it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit of the service manager, as it stands.

    Attributes:
        name: Such as `parrot-worker@0.service`.
        phase: What it does now.
        invocation: Names this run of it; each start has another one. Empty if it has not run.
        started_at: When its process was started, seconds since 1970; 0 if it has not run.
        ready_at: When it became ready last, seconds since 1970; 0 if it never did. Before `started_at`, it was another
            process.
        num_restarts: How often it was restarted without being asked to, since somebody started it.
        result: Why its last run ended, in the words of the service manager; `success` if nothing went wrong.
        status: What its process says of itself.
    """

    name: str
    phase: UnitPhase = UnitPhase.OFF
    invocation: str = ""
    started_at: float = 0.0
    ready_at: float = 0.0
    num_restarts: int = 0
    result: str = "success"
    status: str = ""

    @property
    def was_ready(self) -> bool:
        """Whether this process is ready, or was until it ended."""
        return 0 < self.started_at <= self.ready_at


class Units(Protocol):
    """Starts and stops units, and says how they stand. Starting and stopping return at once: look how it goes on.

    Every method raises `ServiceManagerUnavailable` when the service manager does not answer, and `UnitRefused` when it
    does not do what it was asked to.
    """

    async def read(self, names: list[str]) -> dict[str, Unit]:
        """How these units stand, by name."""

    async def start(self, name: str) -> None:
        """Begin to start a unit; refused if it is being stopped."""

    async def stop(self, name: str) -> None:
        """Begin to stop a unit, also one that is being started."""

    async def reset(self, name: str) -> None:
        """Forget that a unit failed, so that it can be started again however often it was."""

"""One slot: what runs there, whose it is, and whether something may be started. Pure; times are seconds since 1970."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from parrot_mq.autoscale.settings import AutoscalerConfig
from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.messages import SlotState, SlotStatus, WorkerStatus

__all__ = ["Role", "Slot", "SlotEvent", "SlotMemory"]

START_GRACE_S = 30.0
"""So long after it was asked to, a unit has to be seen starting."""

Role = Literal["ready", "starting", "retiring", "stopping", "silent", "off"]
"""What a slot counts as: `retiring` takes no new work and may be taken back; `silent` runs, and nobody hears of it."""

_IDLE = (UnitPhase.OFF, UnitPhase.FAILED, UnitPhase.UNAVAILABLE)


class SlotEvent(NamedTuple):
    """Something that happened to a slot by itself: a constant for logs, and why."""

    kind: str
    reason: str


class SlotMemory(msgspec.Struct, omit_defaults=True):
    """What outlives a restart of the autoscaler.

    Attributes:
        asked_at: When the unit was asked to start; 0 as soon as it is known what came of it.
        asked_after: The invocation before that.
        invocation: The run that we have started; empty if what runs there is not ours.
        num_restarts: How often the service manager has started it again, as far as we know.
        is_stopping: We have asked it to stop.
        num_failures: Failed starts since it was ready for long.
        held_until: Nothing is started here before.
        reason: Why.
    """

    asked_at: float = 0.0
    asked_after: str = ""
    invocation: str = ""
    num_restarts: int = 0
    is_stopping: bool = False
    num_failures: int = 0
    held_until: float = 0.0
    reason: str = ""


@dataclass(slots=True)
class Slot:
    """A place for one worker.

    **Whose is it?** A unit has another invocation each time it starts. The one that appears after we asked for a start,
    and whose process began after that, is ours. A later one is ours as well if the service manager restarted it by
    itself, which it counts; a start by hand begins to count anew, and then it is not ours any more.

    Attributes:
        number: Its number.
        unit: How its unit stands.
        model: What a worker here serves.
        memory: What outlives a restart.
        worker: The last word of the worker in it.
        heard_at: When that was heard.
        retiring_since: Since when its worker is to take no more work; None if it is not.
        measured: The invocation whose start was measured.
    """

    number: int
    unit: Unit
    model: str
    config: AutoscalerConfig
    memory: SlotMemory = field(default_factory=SlotMemory)
    worker: WorkerStatus | None = None
    heard_at: float = 0.0
    retiring_since: float | None = None
    measured: str = ""

    # -- what is seen ------------------------------------------------------------------------------------------------

    def note_unit(self, unit: Unit, now: float) -> SlotEvent | None:
        """Take in how the unit stands."""
        self.unit = unit
        if self.worker is not None and (unit.phase in _IDLE or self.worker.invocation != unit.invocation):
            self.worker = None
        if unit.phase in _IDLE:
            self.retiring_since = None
        if self.config.adopt and self.is_live and not self.is_ours:
            self.memory.invocation, self.memory.num_restarts = unit.invocation, unit.num_restarts
        event = self._note_start(now) if self.memory.asked_at else None
        return self._follow(now) if self.memory.invocation else event

    def _note_start(self, now: float) -> SlotEvent | None:
        """Find out what came of a start that was asked for."""
        memory, unit = self.memory, self.unit
        is_new = unit.invocation not in ("", memory.asked_after)
        if is_new and unit.started_at >= memory.asked_at:
            memory.invocation, memory.num_restarts = unit.invocation, unit.num_restarts
        elif is_new and unit.phase is not UnitPhase.STARTING:
            return self._disown("somebody else has started it first")
        elif now - memory.asked_at <= START_GRACE_S:
            return None  # not yet
        else:
            return self.fail(now, "it was asked to start, and did not")
        memory.asked_at, memory.asked_after = 0.0, ""
        return None

    def _follow(self, now: float) -> SlotEvent | None:
        """Look how a run of ours goes on."""
        memory, unit = self.memory, self.unit
        if unit.phase in (UnitPhase.OFF, UnitPhase.UNAVAILABLE):
            return self._note_end(now)
        event = None
        if unit.invocation != memory.invocation:
            if unit.num_restarts <= memory.num_restarts:
                return self._disown("somebody else has started it again")
            event = SlotEvent("worker_restarted", f"restart {unit.num_restarts} by systemd")
            memory.invocation, memory.num_restarts = unit.invocation, unit.num_restarts
        if memory.is_stopping:
            if unit.phase is UnitPhase.FAILED:
                return self._disown(f"it ended with {unit.result} when it was stopped")
        elif self._has_failed and now >= memory.held_until:
            return self.fail(now, f"it ended with {unit.result}")
        elif unit.phase is UnitPhase.RUNNING and now - unit.ready_at >= self.config.recovery_s:
            memory.num_failures = 0
        return event

    @property
    def _has_failed(self) -> bool:
        """Whether it ended by itself, and either is not started again or was never ready."""
        phase = self.unit.phase
        return phase is UnitPhase.FAILED or (phase is UnitPhase.RESTARTING and not self.unit.was_ready)

    def _note_end(self, now: float) -> SlotEvent | None:
        memory = self.memory
        if memory.is_stopping:
            self._release()
            return None
        memory.held_until, memory.reason = now + self.config.hold_s, "somebody else has stopped it"
        self._release()
        return SlotEvent("worker_stopped_by_others", memory.reason)

    def _disown(self, reason: str) -> SlotEvent:
        self._release()
        return SlotEvent("worker_disowned", reason)

    def _release(self) -> None:
        memory = self.memory
        memory.asked_at, memory.asked_after, memory.invocation, memory.num_restarts = 0.0, "", "", 0
        memory.is_stopping = False

    def note_worker(self, worker: WorkerStatus, now: float) -> None:
        """Take in the last word of the worker that runs here."""
        self.worker, self.heard_at = worker, now
        if worker.state == "standby" and self.is_ours and self.retiring_since is None:
            self.retiring_since = now  # an earlier autoscaler has asked it to

    # -- what is done ------------------------------------------------------------------------------------------------

    def note_asked(self, now: float) -> None:
        """Its unit is asked to start now. Keep this before the asking: else nobody knows whose it is."""
        self.memory.asked_at, self.memory.asked_after = now, self.unit.invocation

    def note_stopping(self) -> None:
        """Its unit is asked to stop now."""
        self.memory.is_stopping = True

    def fail(self, now: float, reason: str) -> SlotEvent:
        """A start has failed: leave the slot alone for a while, each time for longer."""
        memory, config = self.memory, self.config
        hold_s = min(config.quarantine_s * 2**memory.num_failures, config.max_quarantine_s)
        memory.num_failures = min(memory.num_failures + 1, 30)
        memory.held_until, memory.reason = now + hold_s, reason
        if self.unit.phase in _IDLE:
            self._release()
        else:  # it would be tried again and again
            memory.asked_at, memory.asked_after = 0.0, ""
        return SlotEvent("worker_start_failed", f"{reason}; left alone for {hold_s:.0f} s")

    # -- what follows ------------------------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """Whether we may stop what runs here."""
        return bool(self.memory.invocation or self.memory.asked_at)

    @property
    def is_live(self) -> bool:
        """Whether something runs here, or is about to."""
        return self.unit.phase not in _IDLE

    def must_stop(self, now: float) -> str:
        """Why our unit must be stopped now; empty if it need not."""
        if not self.is_ours or not self.is_live or self.memory.is_stopping:
            return ""
        if self._has_failed:
            return "it does not start"
        if self.retiring_since is None:
            return ""
        if self.worker is not None and self.worker.state == "standby" and not self.worker.running:
            return "it stands by and has nothing to do"
        if now - self.retiring_since >= self.config.retire_timeout_s:
            return f"it stands by for {self.config.retire_timeout_s:g} s"
        return ""

    def can_start(self, now: float) -> bool:
        """Whether a worker may be started here."""
        is_free = self.unit.phase in (UnitPhase.OFF, UnitPhase.FAILED)
        return is_free and not self.memory.asked_at and now >= self.memory.held_until

    def role(self, now: float) -> Role:
        """What it counts as."""
        match self.unit.phase:
            case UnitPhase.OFF | UnitPhase.FAILED | UnitPhase.UNAVAILABLE:
                return "starting" if self.memory.asked_at else "off"
            case UnitPhase.STOPPING:
                return "stopping"
            case UnitPhase.STARTING | UnitPhase.RESTARTING:
                return "stopping" if self.memory.is_stopping else "starting"
        if self.memory.is_stopping:
            return "stopping"
        return self._role_running(now)

    def _role_running(self, now: float) -> Role:
        if self.retiring_since is not None:
            return "retiring"
        if self.worker is None or now - self.heard_at > self.config.silent_s:
            quiet_s = now - max(self.unit.ready_at, self.heard_at)
            return "starting" if quiet_s <= self.config.silent_s else "silent"
        if self.worker.state == "ready":
            return "ready"
        return "starting" if self.worker.state == "loading" else "stopping"

    def status(self) -> SlotStatus:
        """The same for the wire."""
        state: SlotState = self.unit.phase.value
        if self.unit.phase is UnitPhase.RUNNING and self.retiring_since is not None:
            state = "standby"
        return SlotStatus(
            slot=self.number,
            unit=self.unit.name,
            model=self.model,
            state=state,
            owner=("autoscaler" if self.is_ours else "others") if self.is_live else "",
            worker=self.worker.worker if self.worker is not None else "",
            since=self.unit.started_at,
            num_restarts=self.unit.num_restarts,
            held_until=self.memory.held_until,
            reason=self.memory.reason,
            status=self.unit.status,
        )

"""What the events and the counts tell of one call: where it ran, how often, and why an attempt was lost."""

from __future__ import annotations

from parrot_mq.coordinator.calls.attempts import Setback, SetbackKind
from parrot_mq.coordinator.calls.counts import CallCounts
from parrot_mq.coordinator.sessions.ready import ReadyCall
from parrot_mq.coordinator.stories.events import EventDetails, Events
from parrot_mq.messages import EventKind
from parrot_mq.observability import TraceContext

__all__ = ["CallEvents"]


class CallEvents:
    """Tells of each attempt once, however often nobody takes it.

    The first try of an attempt is told at once. If nobody takes it that is told, too, and what follows is silent until
    somebody does.
    """

    def __init__(self, call: ReadyCall, events: Events, counts: CallCounts) -> None:
        self._call = call
        self._events = events
        self._counts = counts
        self._task = call.task_address
        self._attempt = 0  # the newest one that was told
        self._is_told = False  # that it is at a host
        self._reason = ""  # why nobody took it

    @property
    def trace(self) -> TraceContext | None:
        """Where the call belongs in a trace."""
        return self._events.traces.of(self._task)

    def asked(self, attempt: int) -> None:
        """An attempt was sent."""
        if self._attempt != attempt:
            self._attempt = attempt
            self._reason = ""
            self._tell_assigned()

    def taken(self, host: str = "") -> None:
        """Somebody takes it, who is named if he says that he runs it."""
        if not self._is_told:
            self._tell_assigned()
        if host:
            self._emit("started", worker=host)

    def answered(self, duration_s: float) -> None:
        """It brought an answer that can be used, so many seconds after it was sent."""
        self.taken()
        self._counts.returned(self._call.function, duration_s)

    def lost(self, setback: Setback, host: str) -> None:
        """It brought none."""
        reason = setback.error.message
        match setback.kind:
            case SetbackKind.NOT_SERVED:
                self._reason = reason
            case SetbackKind.BUSY:
                self._reason = reason
                self._counts.busy(self._call.function)
            case SetbackKind.FAILED | SetbackKind.CUT:
                self.taken()
                self._counts.lost(self._call.function)
            case SetbackKind.REFUSED:
                self.taken()
        if self._is_told:
            self._is_told = False
            self._emit("returned", worker=host, reason=reason)

    def _tell_assigned(self) -> None:
        self._is_told = True
        self._emit("assigned", reason=f"it was tried again: {self._reason}" if self._reason else "")

    def _emit(self, kind: EventKind, *, worker: str = "", reason: str = "") -> None:
        variable = self._call.address.variable
        details = EventDetails(variable=variable, worker=worker, reason=reason, attempt=self._attempt)
        self._events.emit(self._task, kind, **details)

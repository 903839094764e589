"""What happened to one output, and why: put together from events that may come twice, late, or not at all. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from parrot_mq.messages import ErrorInfo, LostAttempt, TaskEvent, TaskStory, Usage
from parrot_mq.types import Objective

__all__ = ["OutputRecord", "StoredValue", "shorten", "shorten_error"]

MAX_READS = 1_000
"""Most variables that are remembered of those that an output reads."""
MAX_ATTEMPTS = 4
"""Most assignments that are remembered of an output, the newest ones; and as many returns."""
MAX_TEXT = 1_000
"""Most characters of a reason, and of the sentence of an error."""
MAX_NAME = 256
"""Most characters of the name of a function or a model."""

_EVENT_CHARACTERS = 400
"""What an event takes in memory besides its long texts, counted as characters."""
_NAME_CHARACTERS = 72
"""The longest name, with what it takes besides."""

State = Literal["waiting", "ready", "assigned", "running", "finished", "failed"]


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A variable is set, or has failed.

    Attributes:
        at: When that was seen, seconds since 1970.
        producer: The worker that set it; empty when it was somebody else.
        usage: What it cost, if somebody said so.
        error: Why it failed.
    """

    at: float
    producer: str = ""
    usage: Usage | None = None
    error: ErrorInfo | None = None


class _Attempts(NamedTuple):
    """The assignment that counts, if one does, and those that led to nothing."""

    current: TaskEvent | None
    lost: list[LostAttempt]


class _Times(NamedTuple):
    """Ascending where they are known, else 0."""

    submitted: float
    ready: float
    assigned: float
    started: float
    finished: float


@dataclass(slots=True)
class OutputRecord:
    """What was told of one output. Which events it keeps depends on the events, not on the order in which they came.

    Attributes:
        variable: The output; empty for a task of which no output is known.
        task: Its task.
        first_at: The time of its first event.
        size: What it takes in memory, in characters.
    """

    variable: str
    task: str
    first_at: float
    size: int = _EVENT_CHARACTERS
    _events: dict[str, TaskEvent] = field(default_factory=dict)
    _assigned: tuple[TaskEvent, ...] = ()
    _returned: tuple[TaskEvent, ...] = ()
    _stored: StoredValue | None = None

    # -- what is told ------------------------------------------------------------------------------------------------

    def tell(self, event: TaskEvent) -> None:
        """Something happened to it."""
        if event.at < self.first_at:
            self.first_at = event.at
        if event.kind == "assigned":
            before, self._assigned = self._assigned, _newest(self._assigned, event)
            self.size += _measure(self._assigned) - _measure(before)
        elif event.kind == "returned":
            before, self._returned = self._returned, _newest(self._returned, event)
            self.size += _measure(self._returned) - _measure(before)
        elif (known := self._events.get(event.kind)) is None or _replaces(event, known):
            self._events[event.kind] = event
            self.size += _measure_event(event) - (0 if known is None else _measure_event(known))

    def store(self, stored: StoredValue) -> None:
        """It is set. A variable is set once: what was seen first counts."""
        if self._stored is None or stored.at < self._stored.at:
            self.size += _measure_stored(stored) - _measure_stored(self._stored)
            self._stored = stored

    def has_started_on(self, worker: str) -> bool:
        """Whether that worker is known to have read the prompt."""
        started = self._events.get("started")
        return started is not None and started.worker == worker

    @property
    def stored_at(self) -> float:
        """When it was set; 0 if it is not."""
        return self._stored.at if self._stored is not None else 0.0

    def measure(self) -> int:
        """Find what `size` has to be."""
        events = _measure(self._events.values()) + _measure(self._assigned) + _measure(self._returned)
        return _EVENT_CHARACTERS + events + _measure_stored(self._stored)

    # -- what follows ------------------------------------------------------------------------------------------------

    def story(self, stored_at: Callable[[str], float]) -> TaskStory:
        """What happened; `stored_at` says when a variable of the session was set, 0 if that is not known."""
        submitted = self._events.get("submitted", _NOTHING)
        prefilling = self._events.get("prefilling", _NOTHING)
        attempts, usage = self._attempts(), self._usage()
        current = attempts.current or _NOTHING
        times = self._times(current, usage)
        return TaskStory(
            variable=self.variable,
            task=self.task,
            function=submitted.function,
            model=submitted.model,
            reads=submitted.reads,
            state=self._state(attempts),
            objective=self._objective(),
            group=next((event.group for event in self._newest_first() if event.group), ""),
            prefix=current.prefix,
            submitted_at=times.submitted,
            ready_at=times.ready,
            last_input=_last_of(submitted.reads, stored_at, after=times.submitted),
            prefilled_at=prefilling.at,
            prefilled_on=prefilling.worker,
            assigned_at=times.assigned,
            started_at=times.started,
            finished_at=times.finished,
            worker=current.worker or self._producer() or self._runner(current),
            batch=current.batch,
            batch_size=current.batch_size,
            decision=current.decision,
            reason=current.reason,
            attempts=max((event.attempt or 1 for event in self._assigned), default=0),
            lost=attempts.lost,
            num_continued_tokens=current.num_continued_tokens,
            usage=usage,
            error=self._error(),
        )

    def _attempts(self) -> _Attempts:
        pairs = _pair(self._assigned, self._returned)
        current = self._current(pairs)
        return _Attempts(current, [_lost(*pair) for pair in pairs if pair[0] is None or pair[0] is not current])

    def _current(self, pairs: list[_Pair]) -> TaskEvent | None:
        """The newest assignment unless it came back; once there is a value, that of the worker who wrote it."""
        if (producer := self._producer()) is not None:
            return next((each for each in reversed(self._assigned) if each.worker in ("", producer)), None)
        assigned, returned = pairs[-1] if pairs else (None, None)
        return assigned if returned is None else None

    def _producer(self) -> str | None:
        """Who wrote the value (the empty text is somebody who is no worker); None while nobody is known to have."""
        if self._stored is not None:
            return self._stored.producer if self._stored.error is None else None
        finished = self._events.get("finished")
        return (finished.worker or None) if finished is not None else None

    def _runner(self, current: TaskEvent) -> str:
        """Who says that he runs what was assigned to nobody by name."""
        started = self._events.get("started")
        return started.worker if started is not None and current.at and started.at >= current.at else ""

    def _error(self) -> ErrorInfo | None:
        if self._stored is not None:
            return self._stored.error
        ended = self._events.get("failed") or self._events.get("rejected")
        return ended.error if ended is not None else None

    def _state(self, attempts: _Attempts) -> State:
        events, current = self._events, attempts.current
        if self._stored is not None:
            return "finished" if self._stored.error is None else "failed"
        if "failed" in events or "rejected" in events:
            return "failed"
        if "finished" in events:
            return "finished"
        if (started := events.get("started")) is not None and not self._is_elsewhere(started, attempts):
            return "running"
        if current is not None:
            return "assigned"
        return "ready" if attempts.lost or "ready" in events else "waiting"

    @staticmethod
    def _is_elsewhere(started: TaskEvent, attempts: _Attempts) -> bool:
        """Whether what started is not what counts now. A call names nobody when it is assigned: who takes it, tells."""
        current = attempts.current
        if current is None:
            return bool(attempts.lost)
        return current.worker != started.worker if current.worker else started.at < current.at

    def _times(self, current: TaskEvent, usage: Usage | None) -> _Times:
        """Several clocks tell them, so what is known to be later is not shown as earlier."""
        submitted, ready = self._at("submitted"), self._at("ready")
        ready = max(submitted, ready) if ready else 0.0
        assigned = max(submitted, ready, current.at) if current.at else 0.0
        before = max(submitted, ready, assigned)
        ended = self.stored_at or self._at("finished") or self._at("failed") or self._at("rejected")
        finished = max(before, ended) if ended else 0.0
        started = usage.started_at if usage is not None else self._at("started")
        if started:
            started = max(before, started)
            started = min(started, finished) if finished else started
        return _Times(submitted, ready, assigned, started, finished)

    def _at(self, kind: str) -> float:
        event = self._events.get(kind)
        return event.at if event is not None else 0.0

    def _usage(self) -> Usage | None:
        """What the value says; else what events say."""
        if self._stored is not None and self._stored.usage is not None:
            return self._stored.usage
        started, finished = self._events.get("started"), self._events.get("finished")
        latest = finished or started
        if latest is None or not (latest.num_prompt_tokens or latest.num_output_tokens):
            return None  # a call costs no tokens
        return Usage(
            num_prompt_tokens=latest.num_prompt_tokens,
            num_shared_tokens=latest.num_shared_tokens,
            num_prefilled_tokens=latest.num_prefilled_tokens,
            num_output_tokens=latest.num_output_tokens,
            attempt=latest.attempt or 1,
            started_at=started.at if started is not None else 0.0,
            finished_at=finished.at if finished is not None else 0.0,
        )

    def _objective(self) -> Objective | None:
        return next((event.objective for event in self._newest_first() if event.objective is not None), None)

    def _newest_first(self) -> list[TaskEvent]:
        """The events that say what is wanted of it."""
        ready = self._events.get("ready")
        return [*reversed(self._assigned), *([ready] if ready is not None else [])]


_NOTHING = TaskEvent(kind="submitted", task="")
_Pair = tuple[TaskEvent | None, TaskEvent | None]
_FIRST_COUNTS = ("submitted", "ready")
"""These are told again when a session or a dispatcher begins anew."""


def _order(event: TaskEvent) -> tuple[float, int, bytes]:
    """A total order of events that are different."""
    return event.at, event.attempt, msgspec.json.encode(event)


def _replaces(event: TaskEvent, known: TaskEvent) -> bool:
    """Which of two events of one kind counts: the first one, or the last one, by their own times."""
    if event.kind in _FIRST_COUNTS:
        return _order(event) < _order(known)
    return _order(event) > _order(known)


def _newest(events: tuple[TaskEvent, ...], event: TaskEvent) -> tuple[TaskEvent, ...]:
    if not events:
        return (event,)
    if event in events:
        return events
    return tuple(sorted((*events, event), key=_order)[-MAX_ATTEMPTS:])


def _pair(assigned: Iterable[TaskEvent], returned: Iterable[TaskEvent]) -> list[_Pair]:
    """Each assignment with its return, in the order of time; either may be lost.

    Of several assignments to one worker, a return belongs to the newest that is not newer than itself.
    """
    missing = list(assigned)
    pairs: list[_Pair] = []
    for event in sorted(returned, key=_order, reverse=True):
        mine = next((each for each in reversed(missing) if _is_return(event, each)), None)
        if mine is not None:
            missing.remove(mine)
        pairs.append((mine, event))
    pairs += [(each, None) for each in missing]
    return sorted(pairs, key=lambda pair: [_order(event) for event in pair if event is not None])


def _is_return(returned: TaskEvent, assigned: TaskEvent) -> bool:
    is_attempt = returned.attempt in (0, assigned.attempt) or not assigned.attempt
    is_worker = assigned.worker in ("", returned.worker)
    return is_worker and returned.at >= assigned.at and is_attempt


def _lost(assigned: TaskEvent | None, returned: TaskEvent | None) -> LostAttempt:
    first, last = assigned or _NOTHING, returned or _NOTHING
    return LostAttempt(
        worker=first.worker or last.worker, assigned_at=first.at, returned_at=last.at, reason=last.reason
    )


def _last_of(reads: Iterable[str], stored_at: Callable[[str], float], *, after: float) -> str:
    """The variable that was set last, if it was set after the task was there."""
    last = max(reads, key=stored_at, default="")
    return last if last and stored_at(last) > after else ""


def shorten(event: TaskEvent) -> TaskEvent:
    """The event with texts of a bounded size; mostly the same one."""
    if not event.reads and not event.function and not event.reason and event.error is None:
        return event
    changes: dict[str, object] = {}
    if len(event.reads) > MAX_READS:
        changes["reads"] = event.reads[:MAX_READS]
    if len(event.reason) > MAX_TEXT:
        changes["reason"] = _cut(event.reason, MAX_TEXT)
    for name in ("function", "model"):
        if len(text := getattr(event, name)) > MAX_NAME:
            changes[name] = _cut(text, MAX_NAME)
    if event.error is not None:
        changes["error"] = shorten_error(event.error)
    return msgspec.structs.replace(event, **changes) if changes else event


def shorten_error(error: ErrorInfo) -> ErrorInfo:
    """The error as a sentence of bounded size; its facts stay with the value."""
    return ErrorInfo(code=_cut(error.code, MAX_NAME), message=_cut(error.message, MAX_TEXT), retryable=error.retryable)


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else f"{text[: max_characters - 1]}…"


def _measure(events: Iterable[TaskEvent]) -> int:
    return sum(map(_measure_event, events))


def _measure_event(event: TaskEvent) -> int:
    size = _EVENT_CHARACTERS + len(event.function) + len(event.reason) + _NAME_CHARACTERS * len(event.reads)
    return size if event.error is None else size + _measure_error(event.error)


def _measure_stored(stored: StoredValue | None) -> int:
    return 0 if stored is None else _EVENT_CHARACTERS + _measure_error(stored.error)


def _measure_error(error: ErrorInfo | None) -> int:
    return 0 if error is None else len(error.code) + len(error.message)

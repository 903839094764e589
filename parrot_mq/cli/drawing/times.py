"""How long the parts of a generation took."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from parrot_mq.messages import TaskStory

__all__ = ["Interval", "Phases", "measure_phases", "session_interval", "show_seconds"]


class Interval(NamedTuple):
    """Seconds since 1970."""

    begin: float
    end: float

    @property
    def duration_s(self) -> float:
        return self.end - self.begin


class Phases(NamedTuple):
    """The parts of a generation, each None if it has not begun or nobody knows when. One that lasts ends now.

    Attributes:
        inputs: It waits for what it reads.
        queue: It waits for a worker.
        prompt: The worker has it; its prompt is read.
        output: Its text is generated and stored.
        whole: All of it.
    """

    inputs: Interval | None
    queue: Interval | None
    prompt: Interval | None
    output: Interval | None
    whole: Interval | None


def measure_phases(story: TaskStory, now: float) -> Phases:
    """The parts of a generation; `now` is in seconds since 1970, on the coordinator's clock.

    Where nobody said when the prompt was read, that and the generating are one part.
    """
    end = story.finished_at or now
    begin = story.submitted_at or story.ready_at or story.assigned_at or story.started_at or story.finished_at
    return Phases(
        inputs=_between(story.submitted_at, story.ready_at or end),
        queue=_between(story.ready_at, story.assigned_at or end),
        prompt=_between(story.assigned_at, story.started_at or end),
        output=_between(story.started_at, end),
        whole=_between(begin, end),
    )


def _between(begin: float, end: float) -> Interval | None:
    return Interval(begin, max(begin, end)) if begin else None


def session_interval(stories: Iterable[TaskStory], now: float) -> Interval | None:
    """From the first submission to the last end, or to now while work is there; None if nothing is known.

    What only waits for inputs is no work: they may never come.
    """
    phases = [measure_phases(story, now) for story in stories]
    wholes = [each.whole for each in phases if each.whole is not None]
    if not wholes:
        return None
    works = [each.output or each.prompt or each.queue for each in phases]
    ends = [work.end for work in works if work is not None]
    return Interval(min(whole.begin for whole in wholes), max(ends or [whole.end for whole in wholes]))


def show_seconds(seconds: float) -> str:
    """A duration for people: three digits, no more."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 119.5:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"

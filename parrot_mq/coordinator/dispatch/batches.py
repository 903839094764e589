"""What workers get at a time, and what comes back from them: pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from parrot_mq.coordinator.dispatch.job import Job, Prefix
from parrot_mq.coordinator.dispatch.placement import Placement
from parrot_mq.coordinator.dispatch.prefill_ahead import Beginning
from parrot_mq.coordinator.sessions.ready import Known, ReadyGeneration
from parrot_mq.coordinator.stories.traces import Traces
from parrot_mq.messages import Assign, Prefill, PrefillAhead

__all__ = ["Batch", "Placed", "Returned", "name_shared", "to_assign", "to_prefills"]


class Placed(NamedTuple):
    """A job, and why it goes where it goes.

    Attributes:
        prefix: Hash of the longest prefix that its worker has, or that others in its batch have too; else empty.
    """

    job: Job
    placement: Placement
    prefix: str = ""


class Batch(NamedTuple):
    """What one worker gets at a time."""

    worker: str
    placed: list[Placed]


class Returned(NamedTuple):
    """A job that came back unfinished.

    Attributes:
        worker: From where.
        attempt: Which attempt it was.
        is_queued: Whether it is queued again; else it is given up.
    """

    job: Job
    worker: str
    attempt: int
    is_queued: bool


def name_shared(placed: list[Placed]) -> list[Placed]:
    """Note the longest prefix that each job shares."""
    num_users = Counter(prefix for each in placed for prefix in each.job.prefixes)
    return [each._replace(prefix=_longest_shared(each, num_users)) for each in placed]


def _longest_shared(placed: Placed, num_users: Counter[Prefix]) -> str:
    for prefix in reversed(placed.job.prefixes):
        if num_users[prefix] > 1 or prefix.hash == placed.placement.prefix:
            return prefix.hash
    return ""


def _index(index: dict[Known, int], segments: Iterable[Known]) -> list[int]:
    """Where each segment stands in a list that has each once."""
    return [index.setdefault(segment, len(index)) for segment in segments]


def to_assign(name: str, generations: list[ReadyGeneration], traces: Traces) -> Assign:
    """A batch as it travels: each segment once, however many generations use it."""
    index: dict[Known, int] = {}
    wired = [each.to_wire(_index(index, each.segments), traces.of(each.task_address)) for each in generations]
    return Assign(batch=name, segments=list(index), generations=wired)


def to_prefills(plan: list[Beginning]) -> PrefillAhead:
    """The whole plan of a worker as it travels."""
    index: dict[Known, int] = {}
    prefills = [
        Prefill(
            key=each.key,
            prompt=_index(index, each.expect.segments),
            prefix_hashes=list(each.expect.prefixes),
            salt=each.expect.salt,
        )
        for each in plan
    ]
    return PrefillAhead(segments=list(index), prefills=prefills)

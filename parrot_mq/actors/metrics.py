"""The actors of a process for Prometheus. Imported where metrics are switched on: it needs prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import Metric

from parrot_mq.actors.statistics import SystemStatistics
from parrot_mq.observability.metrics import gauge

__all__ = ["ActorCollector"]


class ActorCollector:
    """How full the mailboxes are. Actors of one kind (`session-1`, `session-2`, …) are taken together.

    Args:
        read: How the system stands.
    """

    def __init__(self, read: Callable[[], SystemStatistics]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        num: dict[tuple[str, ...], float] = {}
        fullest: dict[tuple[str, ...], float] = {}
        for actor in self._read().actors:
            kind = (_kind_of(actor.address),)
            num[kind] = num.get(kind, 0) + 1
            fullest[kind] = max(fullest.get(kind, 0), actor.mailbox.depth / actor.mailbox.capacity)
        yield gauge("parrot_actors", "Actors, by kind", num, ("kind",))
        yield gauge("parrot_mailbox_fill_ratio", "How full the fullest mailbox of a kind is", fullest, ("kind",))


def _kind_of(address: str) -> str:
    name = address.rpartition("/")[2]
    kind, dash, number = name.rpartition("-")
    return kind if dash and number.isdecimal() else name

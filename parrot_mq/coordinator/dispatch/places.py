"""Where each session stands: when it came, and where it ran last: pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

__all__ = ["SessionPlaces"]


@dataclass(slots=True)
class _Place:
    """Of one session.

    Attributes:
        since: When it came.
        quiet_since: When its last generation ended, if it has none now.
        worker: Where it ran last.
        keys: Its unfinished generations.
    """

    since: float
    quiet_since: float = 0.0
    worker: str | None = None
    keys: set[str] = field(default_factory=set)


class SessionPlaces:
    """A session keeps its place between its generations: who came first goes first, also with what it submits later.

    So programs that come at the same time end one after the other, and not all at the end; a program that decides
    itself what comes next loses nothing by it. But one that never ends does not go before all others for ever.

    Args:
        keep_s: After so long without work a session comes anew.
        max_lead_s: What it submits counts as come at most so much earlier.
        max_quiet: Sessions without work that are remembered.
    """

    def __init__(self, *, keep_s: float, max_lead_s: float, max_quiet: int = 10_000) -> None:
        self._keep_s = keep_s
        self._max_lead_s = max_lead_s
        self._max_quiet = max_quiet
        self._busy: dict[str, _Place] = {}
        self._quiet: OrderedDict[str, _Place] = OrderedDict()  # the one that was quiet for longest first

    def open(self, session: str, key: str, now: float) -> float:
        """A generation is known, maybe not for the first time. Returns what counts as the time when it came."""
        place = self._busy.get(session) or self._come(session, now)
        place.keys.add(key)
        return max(place.since, now - self._max_lead_s)

    def close(self, session: str, key: str, now: float) -> None:
        """A generation has ended; one that is not known is ignored."""
        place = self._busy.get(session)
        if place is None:
            return
        place.keys.discard(key)
        if not place.keys:
            place.quiet_since = now
            self._quiet[session] = self._busy.pop(session)
            if len(self._quiet) > self._max_quiet:
                self._quiet.popitem(last=False)

    def worker(self, session: str) -> str | None:
        """Where a session ran last, as far as it is remembered."""
        place = self._busy.get(session) or self._quiet.get(session)
        return place.worker if place is not None else None

    def run(self, session: str, worker: str) -> None:
        """A generation of a session that is known runs at a worker."""
        if (place := self._busy.get(session)) is not None:
            place.worker = worker

    def _come(self, session: str, now: float) -> _Place:
        place = self._quiet.pop(session, None) or _Place(now)
        if not place.keys and now - max(place.quiet_since, place.since) > self._keep_s:
            place.since = now
        self._busy[session] = place
        return place

    def check_integrity(self) -> None:
        """Assert that a session is busy exactly if it has unfinished generations."""
        assert not self._busy.keys() & self._quiet.keys()
        assert all(place.keys for place in self._busy.values())
        assert not any(place.keys for place in self._quiet.values())
        assert len(self._quiet) <= self._max_quiet

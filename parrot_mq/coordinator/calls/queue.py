"""Which calls may be at hosts: bounded for each tenant, and shared by its functions. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from parrot_mq.coordinator.sessions.ready import ReadyCall

__all__ = ["CallQueue", "Lane"]


@dataclass(slots=True, eq=False)
class Lane:
    """The calls of one function of a tenant.

    Attributes:
        waiting: Not started yet, by key, in the order in which they came.
        num_started: How many have been started and have not ended.
        unserved_since: Since when nobody has listened (monotonic seconds); None if somebody has, or nobody tried.
        refused: Those for which no host had room, by key, each with what wakes it before its time.
    """

    tenant: str
    function: str
    waiting: OrderedDict[str, ReadyCall] = field(default_factory=OrderedDict)
    num_started: int = 0
    unserved_since: float | None = None
    refused: OrderedDict[str, Callable[[], None]] = field(default_factory=OrderedDict)

    def wake_refused(self) -> None:
        """A host may have room again, for one."""
        if self.refused:
            _, wake = self.refused.popitem(last=False)
            wake()


@dataclass(slots=True, eq=False)
class _Share:
    """What one tenant has.

    Attributes:
        lanes: By function.
        turns: Functions with waiting calls; the first one's turn is next.
        num_started: Of all its functions.
    """

    lanes: dict[str, Lane] = field(default_factory=dict)
    turns: OrderedDict[str, None] = field(default_factory=OrderedDict)
    num_started: int = 0


class CallQueue:
    """Lets each tenant have some calls at a time; the others wait, first come first served for each function.

    The functions of a tenant take turns. One of which nothing runs may have one call beyond the limit, up to as many
    again: a function that waits for what another one does would else wait for its own place.

    Args:
        max_started: Most calls of one tenant.
    """

    def __init__(self, max_started: int) -> None:
        self._max_started = max_started
        self._shares: dict[str, _Share] = {}

    def __len__(self) -> int:
        return sum(len(lane.waiting) for lane in self.lanes())

    def lanes(self) -> Iterator[Lane]:
        """All that have calls."""
        for share in self._shares.values():
            yield from share.lanes.values()

    def lane(self, call: ReadyCall) -> Lane:
        """The lane of a call that waits or was started."""
        return self._shares[call.address.tenant].lanes[call.function]

    def add(self, call: ReadyCall) -> None:
        """A call came; it waits until `start` names it."""
        share = self._shares.setdefault(call.address.tenant, _Share())
        lane = share.lanes.get(call.function)
        if lane is None:
            lane = share.lanes[call.function] = Lane(call.address.tenant, call.function)
        lane.waiting[call.key] = call
        share.turns.setdefault(call.function)

    def start(self, tenant: str) -> list[ReadyCall]:
        """Take the calls of a tenant that may be started now; each counts until `end`."""
        share = self._shares.get(tenant)
        started: list[ReadyCall] = []
        while share is not None and (lane := self._next_lane(share)) is not None:
            _, call = lane.waiting.popitem(last=False)
            lane.num_started += 1
            share.num_started += 1
            self._take_turn(share, lane)
            started.append(call)
        return started

    def _next_lane(self, share: _Share) -> Lane | None:
        if share.num_started < self._max_started:
            return next((share.lanes[function] for function in share.turns), None)
        if share.num_started < 2 * self._max_started:
            return next((lane for name in share.turns if not (lane := share.lanes[name]).num_started), None)
        return None

    @staticmethod
    def _take_turn(share: _Share, lane: Lane) -> None:
        if lane.waiting:
            share.turns.move_to_end(lane.function)
        else:
            del share.turns[lane.function]

    def withdraw(self, call: ReadyCall) -> bool:
        """Forget a call that waits; returns False if it does not."""
        share = self._shares.get(call.address.tenant)
        lane = share.lanes.get(call.function) if share is not None else None
        if share is None or lane is None or lane.waiting.pop(call.key, None) is None:
            return False
        if not lane.waiting:
            del share.turns[call.function]
        self._drop_idle(share, lane)
        return True

    def end(self, call: ReadyCall) -> None:
        """A call that was started is over."""
        share = self._shares[call.address.tenant]
        lane = share.lanes[call.function]
        lane.num_started -= 1
        share.num_started -= 1
        self._drop_idle(share, lane)

    def _drop_idle(self, share: _Share, lane: Lane) -> None:
        if not lane.num_started and not lane.waiting:
            del share.lanes[lane.function]
        if not share.lanes:
            del self._shares[lane.tenant]

    def check_integrity(self) -> None:
        """Prove that counts and turns are right, and that no one waits who could be started."""
        for share in self._shares.values():
            lanes = share.lanes.values()
            assert share.lanes
            assert share.num_started == sum(lane.num_started for lane in lanes) <= 2 * self._max_started
            assert set(share.turns) == {lane.function for lane in lanes if lane.waiting}
            assert all(lane.num_started >= 0 and (lane.num_started or lane.waiting) for lane in lanes)

"""Whose turn it is: names that have work share by what they spend, and by weights: pure.

Source: Shreedhar and Varghese, Efficient Fair Queueing using Deficit Round Robin (SIGCOMM 1995). Unlike there, what a
turn costs is known only afterwards: a deficit may fall below 0, and is paid off before the next turn. That who comes
with little goes first is from RFC 8290 (FlowQueue-CoDel), section 4.2; here it is an advance, and paid off, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container

__all__ = ["DeficitRoundRobin"]

QUANTUM_TOKENS = 4096.0
"""What a tenant of weight 1 may spend in a turn: small against what a worker holds, large against one generation."""
MAX_SAVED_ROUNDS = 4.0
"""Of the rounds in which one that has work could not be served, so many are made up for later."""
MIN_DEBTS = 1024
"""Debts of more names that have no work are looked through for those that are paid off."""


class DeficitRoundRobin:
    """Names that have work take turns; over time each spends in proportion to its weight.

    Debts are remembered while a name has no work, and paid off by the rounds that others have meanwhile. A name that
    gets work and has no debt has its turn at once, before those that are busy: it gets its share in advance.

    `next` costs O(names that have work) where the turns pass on, else O(1).

    Args:
        weight: Of a name; above 0.
        quantum: What a name of weight 1 may spend in a turn.
    """

    def __init__(self, weight: Callable[[str], float], quantum: float = QUANTUM_TOKENS) -> None:
        self._weight = weight
        self._quantum = quantum
        self._round = 0.0
        self._deficits: dict[str, float] = {}  # of those that have work, in the order of their turns
        self._fresh: dict[str, None] = {}  # of these, those that may spend in advance
        self._debts: dict[str, tuple[float, float]] = {}  # of the others: how much at which round
        self._max_debts = MIN_DEBTS

    def __contains__(self, name: str) -> bool:
        return name in self._deficits

    def activate(self, name: str) -> None:
        """A name has work."""
        if name not in self._deficits:
            self._deficits[name] = -self._debt(name)
            self._debts.pop(name, None)
            if not self._deficits[name]:
                self._fresh[name] = None

    def deactivate(self, name: str) -> None:
        """A name has no work any more; what it has not spent is forfeited."""
        deficit = self._deficits.pop(name, 0.0)
        self._fresh.pop(name, None)
        if deficit < 0:
            self._owe(name, -deficit)

    def next(self, skipped: Container[str] = ()) -> str | None:
        """Whose turn it is; None if nobody has work but those to be skipped."""
        for name in list(self._fresh):
            if self._deficits[name] <= -self._share(name):
                del self._fresh[name]  # it is as busy as others
            elif name not in skipped:
                return name
        for _ in range(2):
            for _ in range(len(self._deficits)):
                name, deficit = next(iter(self._deficits.items()))
                if name not in skipped and deficit > 0:
                    return name
                self._deficits[name] = self._deficits.pop(name)  # its turn is over
            self._grant(skipped)
        return None

    def charge(self, name: str, spent: float) -> None:
        """A name has spent something, or gets something back if it is below 0."""
        if self._deficits.keys() == {name} and spent > 0:
            self._round += spent / self._share(name)  # at nobody's expense: as if it had got it in turns
            self._fresh.pop(name, None)
        elif name in self._deficits:
            self._deficits[name] -= spent
        else:
            self._owe(name, self._debt(name) + spent)

    def _share(self, name: str) -> float:
        """What a name may spend in a round."""
        return self._quantum * self._weight(name)

    def _grant(self, skipped: Container[str]) -> None:
        """Let as many rounds pass as it takes until somebody may spend again."""
        waiting = [name for name in self._deficits if name not in skipped]
        if not waiting:
            return
        num = min(math.floor(-self._deficits[name] / self._share(name)) + 1 for name in waiting)
        self._round += num
        for name, deficit in self._deficits.items():
            share = self._share(name)
            self._deficits[name] = max(deficit, min(deficit + num * share, MAX_SAVED_ROUNDS * share))

    def _debt(self, name: str) -> float:
        """What is left of the debt of one that has no work."""
        debt, since = self._debts.get(name, (0.0, 0.0))
        return max(0.0, debt - (self._round - since) * self._share(name))

    def _owe(self, name: str, debt: float) -> None:
        self._debts.pop(name, None)
        if debt > 0:
            self._debts[name] = debt, self._round
        if len(self._debts) > self._max_debts:
            self._debts = {name: entry for name, entry in self._debts.items() if self._debt(name) > 0}
            self._max_debts = max(MIN_DEBTS, 2 * len(self._debts))

    def check_integrity(self) -> None:
        """Assert that every name is on one side only, and that nobody has saved more than it may."""
        assert not self._deficits.keys() & self._debts.keys()
        assert self._fresh.keys() <= self._deficits.keys()
        assert all(debt > 0 for debt, _ in self._debts.values())

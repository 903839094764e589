"""Finding cycles while a graph grows, without searching all of it.

Every node has a rank above the ranks of all that it waits for, so as long as every node finds a rank there is no
cycle. A new node mostly finds one at once: above what it waits for, below what waits for it. Only where these two
overlap a search is needed. It goes both ways at once until one of them has no way on; that smaller side is then moved
out of the way, so that the same overlap does not come again.

Source: D. J. Pearce and P. H. J. Kelly, A dynamic topological sort algorithm for directed acyclic graphs, 2006; the
search both ways is from B. Alpern et al., Incremental evaluation of computational circuits, 1990.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Final

from parrot_mq.errors import GraphCycleError
from parrot_mq.types import VariableId

__all__ = ["Ranks"]

Neighbours = Callable[[VariableId], Iterator[VariableId]]

_STEP: Final = 1 << 64
_MAX_SHOWN: Final = 12


class Ranks:
    """The ranks of the nodes of a graph. Nodes are named by what they write."""

    def __init__(self, *, dependents: Neighbours, dependencies: Neighbours) -> None:
        """Rank the nodes of a graph.

        Args:
            dependents: The nodes that wait for a node.
            dependencies: The nodes that a node waits for.
        """
        self._dependents = dependents
        self._dependencies = dependencies
        self._ranks: dict[VariableId, int] = {}

    def __len__(self) -> int:
        return len(self._ranks)

    def __getitem__(self, variable: VariableId) -> int:
        return self._ranks[variable]

    def insert(self, variable: VariableId) -> None:
        """Rank a node that the graph has just taken in.

        Raises:
            GraphCycleError: The node waits for itself. It has no rank then.
        """
        if variable in self._dependents(variable):
            raise GraphCycleError(cycle=[variable, variable])
        low = max((self._ranks[each] for each in self._dependencies(variable)), default=None)
        high = min((self._ranks[each] for each in self._dependents(variable)), default=None)
        if low is not None and high is not None and high - low < 2:
            needed = low - high + 2 * _STEP
            moved = self._move_smaller_side(variable, needed)
            low, high = (low, high + moved) if moved > 0 else (low + moved, high)
        self._ranks[variable] = _between(low, high)

    def remove(self, variable: VariableId) -> None:
        """Forget a node, if it has a rank; the other ranks stay right."""
        self._ranks.pop(variable, None)

    def _move_smaller_side(self, start: VariableId, distance: int) -> int:
        """Move what waits for a node up, or what it waits for down, directly or not; whichever is less.

        What is above stays above: all that waits for something that is moved up is moved up too.

        Returns:
            By how much: positive if up.
        """
        after: set[VariableId] = set()
        before: set[VariableId] = set()
        walks = (
            (_walk(start, self._dependents, after), after, distance),
            (_walk(start, self._dependencies, before), before, -distance),
        )
        for walk, seen, move in cycle(walks):
            found = next(walk, None)
            if found == start:
                raise GraphCycleError(cycle=_shortest_cycle(start, self._dependents))
            if found is None:
                for variable in seen:
                    self._ranks[variable] += move
                return move
        raise AssertionError("a walk over a finite graph ends")


def _between(low: int | None, high: int | None) -> int:
    if low is None:
        return 0 if high is None else high - _STEP
    return low + _STEP if high is None else (low + high) // 2


def _walk(start: VariableId, neighbours: Neighbours, seen: set[VariableId]) -> Iterator[VariableId]:
    """The far end of every edge that can be reached; each is added to `seen`."""
    stack = [neighbours(start)]
    while stack:
        for variable in stack[-1]:
            yield variable
            if variable not in seen:
                seen.add(variable)
                stack.append(neighbours(variable))
                break
        else:
            stack.pop()


def _shortest_cycle(start: VariableId, dependents: Neighbours) -> list[str]:
    """The variables along the shortest way from one back to itself; the middle of a long way is left out."""
    previous: dict[VariableId, VariableId] = {}
    queue = deque([start])
    while start not in previous:
        variable = queue.popleft()
        for each in dependents(variable):
            if each not in previous:
                previous[each] = variable
                queue.append(each)
    way: list[VariableId] = [start]
    while len(way) == 1 or way[-1] != start:
        way.append(previous[way[-1]])
    names: list[str] = [*reversed(way)]
    half = _MAX_SHOWN // 2
    return names if len(names) <= _MAX_SHOWN else [*names[:half], "…", *names[-half:]]

"""The greatest number of late."""

from __future__ import annotations

from collections import deque

__all__ = ["Window"]


class Window:
    """Numbers of the last so many seconds, of which the greatest is asked for. Each operation costs O(1) in the mean.

    Times must not go back.
    """

    def __init__(self) -> None:
        self._entries: deque[tuple[float, float]] = deque()  # numbers fall from left to right

    def note(self, now: float, number: float, *, keep_s: float) -> None:
        """Add one, and forget those that are as old as `keep_s`."""
        entries = self._entries
        while entries and entries[-1][1] <= number:
            entries.pop()
        entries.append((now, number))
        while entries[0][0] <= now - keep_s and len(entries) > 1:
            entries.popleft()

    def max(self) -> float:
        """The greatest one; 0 if there is none."""
        return self._entries[0][1] if self._entries else 0.0

"""What the events of a session tell, kept up to date while it runs."""

from __future__ import annotations

import asyncio

from parrot_mq.clock import Clock
from parrot_mq.coordinator.stories.history import SessionHistory
from parrot_mq.messages import SessionStory, TaskEvent

__all__ = ["Recorder"]

ENDED = ("finished", "failed")


class Recorder:
    """Keeps the events of one session. They may come in any order: an earlier kind never undoes a later one."""

    def __init__(self, session: str, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._history = SessionHistory()
        self._changed = asyncio.Event()

    def add(self, event: TaskEvent) -> None:
        """Take in one event."""
        self._history.tell(event)
        self._changed.set()

    def story(self) -> SessionStory:
        """What is known now."""
        stories = list(self._history.stories())
        return SessionStory(session=self._session, at=self._clock.now(), stories=stories)

    async def wait_complete(self, timeout_s: float) -> bool:
        """Wait until every output that was seen has ended; returns whether they have within `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.is_complete:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    @property
    def is_complete(self) -> bool:
        """Whether every output that was seen has ended."""
        return all(story.state in ENDED for story in self._history.stories())

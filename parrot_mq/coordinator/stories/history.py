"""A bounded memory of what happened to the outputs of sessions, and why. Pure: it is told everything."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

import msgspec

from parrot_mq.coordinator.stories.story import OutputRecord, StoredValue, shorten, shorten_error
from parrot_mq.errors import ConfigurationError
from parrot_mq.messages import ErrorInfo, GenerationProgress, SessionStory, TaskEvent, TaskStory, Usage, WorkerStatus

__all__ = ["History", "SessionHistory"]

MAX_CHARACTERS = 48 * 1024 * 1024
"""How much is remembered of all sessions, in characters: an output of a finished task takes about 2,500."""
MAX_SHARE = 0.5
"""How much of it one session may take."""
MAX_ANSWER_CHARACTERS = 256 * 1024
"""An answer as JSON; every server takes that much in one message."""
MAX_PRODUCER = 64

_INPUT_CHARACTERS = 200
"""What a variable that no task writes takes in memory, counted as characters."""
_SESSION_CHARACTERS = 1_000


class SessionHistory:
    """What is remembered of one session. All methods cost O(1) in what is remembered, but for `stories`."""

    def __init__(self) -> None:
        self.num_forgotten = 0
        self.size = _SESSION_CHARACTERS
        self._outputs: dict[str, OutputRecord] = {}
        self._inputs: dict[str, StoredValue] = {}
        """Variables that were set, and of which no task is known that writes them."""

    def __len__(self) -> int:
        return len(self._outputs)

    def tell(self, event: TaskEvent) -> None:
        """Something happened to an output, or to a task."""
        record = self._record(event)
        if record is not None:
            self.size -= record.size
            record.tell(shorten(event))
            self.size += record.size

    def store(
        self,
        variable: str,
        at: float,
        *,
        producer: str = "",
        usage: Usage | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        """A variable was set at that time (seconds since 1970), or has failed."""
        stored = StoredValue(at, producer[:MAX_PRODUCER], usage, None if error is None else shorten_error(error))
        record = self._outputs.get(variable)
        if record is not None:
            self.size -= record.size
            record.store(stored)
            self.size += record.size
        elif (known := self._inputs.get(variable)) is None or stored.at < known.at:
            self.size += _INPUT_CHARACTERS if known is None else 0
            self._inputs[variable] = stored

    def progress(self, worker: str, progress: GenerationProgress, variable: str, at: float) -> None:
        """A worker says how far it is: once it knows the length of the prompt, it has read it."""
        record = self._outputs.get(variable)
        if record is None or not progress.num_prompt_tokens or record.has_started_on(worker):
            return
        num_tokens = progress.num_prompt_tokens
        self.tell(
            TaskEvent(
                kind="started", task=record.task, variable=variable, at=at, worker=worker, num_prompt_tokens=num_tokens
            )
        )

    def _record(self, event: TaskEvent) -> OutputRecord | None:
        """Where an event belongs; nowhere if it is about a task whose output another one writes meanwhile.

        An event without a task is about whichever task writes the variable.
        """
        key = event.variable or f"{event.task}/"  # no variable has such a name
        record = self._outputs.get(key)
        if record is not None and (record.task == event.task or not record.task or not event.task):
            record.task = record.task or event.task
            return record
        if record is not None:
            if event.at < record.first_at:
                return None
            self._drop_output(key)
            self.num_forgotten += 1
        record = self._outputs[key] = OutputRecord(event.variable, event.task, event.at)
        if (stored := self._inputs.pop(key, None)) is not None:
            self.size -= _INPUT_CHARACTERS
            record.store(stored)
        self.size += record.size
        return record

    def close(self) -> None:
        """All variables are removed; what comes under the same names is something else."""
        self.size -= _INPUT_CHARACTERS * len(self._inputs)
        self._inputs.clear()

    def forget_oldest(self) -> bool:
        """Forget the output, or the input, that is there for longest; returns whether there was one."""
        if self._inputs and (not self._outputs or len(self._inputs) > len(self._outputs)):
            del self._inputs[next(iter(self._inputs))]
            self.size -= _INPUT_CHARACTERS
            return True
        if not self._outputs:
            return False
        self._drop_output(next(iter(self._outputs)))
        self.num_forgotten += 1
        return True

    def _drop_output(self, key: str) -> None:
        self.size -= self._outputs.pop(key).size

    def stories(self, begin: int = 0) -> Iterator[TaskStory]:
        """One for each output, in the order in which they were first heard of, from the one at `begin` on."""
        for record in islice(self._outputs.values(), max(begin - self.num_forgotten, 0), None):
            yield record.story(self._stored_at)

    def _stored_at(self, variable: str) -> float:
        if (record := self._outputs.get(variable)) is not None:
            return record.stored_at
        return stored.at if (stored := self._inputs.get(variable)) is not None else 0.0

    def check_integrity(self) -> None:
        """Prove that sizes and sums are right, and that nothing is in two places."""
        for record in self._outputs.values():
            assert record.size == record.measure()
        assert not self._inputs.keys() & self._outputs.keys()
        outputs = sum(record.size for record in self._outputs.values())
        assert self.size == _SESSION_CHARACTERS + outputs + _INPUT_CHARACTERS * len(self._inputs)


class History:
    """What is remembered of all sessions. When there is too much, the session that was quiet for longest is forgotten.

    One session takes at most half of the memory: then its oldest outputs are forgotten. Closing a session does not
    forget it: people look afterwards.
    """

    def __init__(self, *, max_characters: int = MAX_CHARACTERS) -> None:
        if max_characters < 4 * _SESSION_CHARACTERS:
            raise ConfigurationError(f"max_characters must be at least {4 * _SESSION_CHARACTERS}, got {max_characters}")
        self._max_characters = max_characters
        self._sessions: OrderedDict[tuple[str, str], SessionHistory] = OrderedDict()
        self._size = 0

    def tell(self, tenant: str, session: str, event: TaskEvent) -> None:
        """Something happened."""
        history, size = self._touch(tenant, session)
        history.tell(event)
        self._size += history.size - size
        self._make_room(history)

    def store(
        self,
        tenant: str,
        session: str,
        variable: str,
        at: float,
        *,
        producer: str = "",
        usage: Usage | None = None,
        error: ErrorInfo | None = None,
    ) -> None:
        """A variable was set, as in `SessionHistory.store`."""
        history, size = self._touch(tenant, session)
        history.store(variable, at, producer=producer, usage=usage, error=error)
        self._size += history.size - size
        self._make_room(history)

    def hear(self, status: WorkerStatus, at: float) -> None:
        """A worker was heard of: it says how far it is with what it runs."""
        for progress in status.progress:
            tenant, _, rest = progress.key.partition(".")
            session, _, variable = rest.partition(".")
            if (history := self._sessions.get((tenant, session))) is not None:
                size = history.size
                history.progress(status.worker, progress, variable, at)
                self._size += history.size - size
                self._make_room(history)

    def close(self, tenant: str, session: str) -> None:
        """A session was closed. What happened in it stays in memory."""
        if (history := self._sessions.get((tenant, session))) is not None:
            self._size -= history.size
            history.close()
            self._size += history.size

    def story(self, tenant: str, session: str, *, begin: int = 0, node: str = "", at: float = 0.0) -> SessionStory:
        """What is remembered of a session, from the output at `begin` on, as much as one answer takes."""
        history = self._sessions.get((tenant, session)) or SessionHistory()
        begin = max(begin, history.num_forgotten)
        stories: list[TaskStory] = []
        num_characters = 0
        for story in history.stories(begin):
            num_characters += len(msgspec.json.encode(story)) + 1
            if stories and num_characters > MAX_ANSWER_CHARACTERS:
                break
            stories.append(story)
        end = begin + len(stories)
        return SessionStory(
            session=session,
            node=node,
            at=at,
            stories=stories,
            num_forgotten=history.num_forgotten,
            next_begin=end if end < history.num_forgotten + len(history) else 0,
        )

    def _touch(self, tenant: str, session: str) -> tuple[SessionHistory, int]:
        """The memory of a session, which is the newest now, and what it took so far."""
        name = (tenant, session)
        history = self._sessions.get(name)
        if history is None:
            history = self._sessions[name] = SessionHistory()
            return history, 0
        self._sessions.move_to_end(name)
        return history, history.size

    def _make_room(self, newest: SessionHistory) -> None:
        if newest.size > MAX_SHARE * self._max_characters:
            size = newest.size
            while newest.size > MAX_SHARE * self._max_characters and newest.forget_oldest():
                pass
            self._size += newest.size - size
        while self._size > self._max_characters:
            _, oldest = self._sessions.popitem(last=False)
            self._size -= oldest.size

    def check_integrity(self) -> None:
        """Prove that sums are right and bounds are kept."""
        for history in self._sessions.values():
            history.check_integrity()
            assert history.size <= MAX_SHARE * self._max_characters
        assert self._size == sum(history.size for history in self._sessions.values())
        assert self._size <= self._max_characters

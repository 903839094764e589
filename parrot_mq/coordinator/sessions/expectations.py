"""Generations that are not ready: what is known already of their prompts goes to their dispatchers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from parrot_mq.actors import ActorRef
from parrot_mq.coordinator.dispatch.needs import MAX_PREFIXES
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import Done, Expect
from parrot_mq.coordinator.sessions.session_state import Assignment, SessionState
from parrot_mq.coordinator.sessions.steps import PlannedGeneration
from parrot_mq.errors import ModelNotServed
from parrot_mq.types import VariableId

__all__ = ["Expectations"]

MAX_AWAITED = 16
"""What waits for more than this many is far from ready; by which generations does not matter yet."""

NOT_GENERATED = ""
"""Stands for a variable that no generation writes."""


@dataclass(slots=True)
class _Expected:
    """A generation that is not ready.

    Attributes:
        prefixes: Hashes of the leading segments that are known.
        waits_for: As in `Expect`.
        assignment: Who was told of it; None if nobody was.
    """

    planned: PlannedGeneration
    model: str
    prefixes: tuple[str, ...]
    waits_for: tuple[str, ...]
    assignment: Assignment | None = None


class Expectations:
    """Those of one session. Its dispatchers keep in mind what these generations will need.

    Nothing but speed depends on it, so a model that is not served yet is no matter: it is told later.
    """

    def __init__(self, state: SessionState, models: Models, session: ActorRef, *, salt: str) -> None:
        self._state = state
        self._models = models
        self._session = session
        self._salt = salt
        self._expected: dict[VariableId, _Expected] = {}

    def __len__(self) -> int:
        return len(self._expected)

    def get(self, name: VariableId) -> Assignment | None:
        """The dispatcher that was told of a generation, if it was told and still expects it."""
        expected = self._expected.get(name)
        return None if expected is None else expected.assignment

    async def add(self, planned: PlannedGeneration, model: str) -> None:
        """A generation waits for some of what it reads."""
        prefixes = planned.known_prefixes(self._state.values)[:MAX_PREFIXES]
        expected = _Expected(planned, model, prefixes, self._waits_for(planned.writes))
        self._expected[planned.writes] = expected
        await self._tell(expected)

    async def extend(self, name: VariableId, read: VariableId) -> None:
        """Something that a generation reads is set; it may still wait for other things. O(1) where nothing changes."""
        expected = self._expected.get(name)
        if expected is None:
            return
        before, num_known = expected.prefixes, len(expected.prefixes)
        if num_known < MAX_PREFIXES and expected.planned.awaits(num_known) == read:
            expected.prefixes = expected.planned.known_prefixes(self._state.values, after=before)[:MAX_PREFIXES]
        await self._tell_news(expected, has_grown=len(expected.prefixes) > num_known)

    async def found_producer(self, read: VariableId) -> None:
        """A variable that generations wait for is going to be generated."""
        for node in self._state.graph.consumers(read):
            if (expected := self._expected.get(node.writes)) is not None:
                await self._tell_news(expected)

    def drop(self, name: VariableId) -> None:
        """A generation is ready: its dispatcher gets it, and needs no expectation any more."""
        self._expected.pop(name, None)

    async def withdraw(self, names: Iterable[VariableId]) -> None:
        """Generations will not come; those that are not expected are ignored."""
        for name in names:
            expected = self._expected.pop(name, None)
            if expected is not None and expected.assignment is not None:
                await expected.assignment.dispatcher.tell(Done((expected.assignment.key,)))

    async def withdraw_all(self) -> None:
        """None of the generations will come."""
        await self.withdraw(list(self._expected))

    async def tell_untold(self) -> None:
        """Tell what nobody was told, now that there are more models."""
        for expected in list(self._expected.values()):
            if expected.assignment is None:
                await self._tell(expected)

    async def tell_again(self, dispatcher: ActorRef) -> None:
        """Tell a dispatcher that has been restarted."""
        for expected in list(self._expected.values()):
            if expected.assignment is not None and expected.assignment.dispatcher == dispatcher:
                await self._tell(expected)

    async def _tell_news(self, expected: _Expected, *, has_grown: bool = False) -> None:
        waits_for = self._waits_for(expected.planned.writes)
        if has_grown or waits_for != expected.waits_for:
            expected.waits_for = waits_for
            await self._tell(expected)

    async def _tell(self, expected: _Expected) -> None:
        if not expected.prefixes:
            return
        expected.assignment = expected.assignment or self._assign(expected)
        if expected.assignment is None:
            self._models.notify(self._session)
        else:
            await expected.assignment.dispatcher.tell(self._to_expect(expected, expected.assignment.key))

    def _to_expect(self, expected: _Expected, key: str) -> Expect:
        state, planned = self._state, expected.planned
        return Expect(
            key,
            expected.prefixes,
            segments=planned.known_segments(state.values, len(expected.prefixes)),
            waits_for=expected.waits_for,
            standing=state.objectives.standing(planned.writes),
            salt=self._salt,
        )

    def _waits_for(self, name: VariableId) -> tuple[str, ...]:
        graph = self._state.graph
        node = graph.producer(name)
        if node is None or graph.num_missing(name) > MAX_AWAITED:
            return (NOT_GENERATED,)
        return tuple(NOT_GENERATED if graph.producer(read) is None else self._key(read) for read in graph.missing(node))

    def _assign(self, expected: _Expected) -> Assignment | None:
        try:
            model = self._models.resolve(expected.model)
        except ModelNotServed:  # said when the generation is ready, if it is still so
            return None
        if model is None:
            return None
        return Assignment(self._models.dispatcher(model), self._key(expected.planned.writes))

    def _key(self, name: VariableId) -> str:
        return f"{self._state.name}.{name}"

"""Generations that are not ready: what is known of their prompts already goes to their dispatchers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parrot_mq.actors import ActorRef
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.needs import MAX_PREFIXES
from parrot_mq.coordinator.protocol import Done, Expect, SessionKey
from parrot_mq.coordinator.ready import PlannedGeneration
from parrot_mq.errors import ModelNotServed
from parrot_mq.messages import Value
from parrot_mq.types import VariableId

__all__ = ["Expectations"]

Values = Mapping[VariableId, Value]


@dataclass(slots=True)
class _Expected:
    """A generation that is not ready.

    Attributes:
        prefixes: Hashes of the leading segments that are known.
        dispatcher: Who was told of them; None if nobody was.
    """

    planned: PlannedGeneration
    model: str
    prefixes: tuple[str, ...]
    dispatcher: ActorRef | None = None


class Expectations:
    """Those of one session. Its dispatchers keep the prefixes in mind that these generations will need.

    Nothing but speed depends on it, so a model that is not served yet is no matter: it is told later.
    """

    def __init__(self, key: SessionKey, models: Models, session: ActorRef) -> None:
        self._key = key
        self._models = models
        self._session = session
        self._expected: dict[VariableId, _Expected] = {}

    def __len__(self) -> int:
        return len(self._expected)

    async def add(self, planned: PlannedGeneration, model: str, values: Values) -> None:
        """A generation waits for some of what it reads."""
        expected = _Expected(planned, model, planned.known_prefixes(values))
        self._expected[planned.writes] = expected
        await self._tell(expected)

    async def extend(self, name: VariableId, values: Values) -> None:
        """Something that a generation reads is set; it may still wait for other things."""
        expected = self._expected.get(name)
        if expected is None or len(expected.prefixes) >= MAX_PREFIXES:
            return
        prefixes = expected.planned.known_prefixes(values, after=expected.prefixes)
        if len(prefixes) > len(expected.prefixes):
            expected.prefixes = prefixes
            await self._tell(expected)

    def drop(self, name: VariableId) -> None:
        """A generation is ready: its dispatcher gets it, and needs no expectation any more."""
        self._expected.pop(name, None)

    async def withdraw(self, names: Iterable[VariableId]) -> None:
        """Generations will not come; those that are not expected are ignored."""
        for name in names:
            expected = self._expected.pop(name, None)
            if expected is not None and expected.dispatcher is not None:
                await expected.dispatcher.tell(Done((self._name(expected),)))

    async def withdraw_all(self) -> None:
        """None of the generations will come."""
        await self.withdraw(list(self._expected))

    async def tell_untold(self) -> None:
        """Tell what nobody was told, now that there are more models."""
        for expected in list(self._expected.values()):
            if expected.dispatcher is None:
                await self._tell(expected)

    async def tell_again(self, dispatcher: ActorRef) -> None:
        """Tell a dispatcher that has been restarted."""
        for expected in list(self._expected.values()):
            if expected.dispatcher == dispatcher:
                await self._tell(expected)

    async def _tell(self, expected: _Expected) -> None:
        if not expected.prefixes:
            return
        expected.dispatcher = expected.dispatcher or self._find_dispatcher(expected.model)
        if expected.dispatcher is None:
            self._models.notify(self._session)
        else:
            await expected.dispatcher.tell(Expect(self._name(expected), expected.prefixes))

    def _find_dispatcher(self, model: str) -> ActorRef | None:
        try:
            resolved = self._models.resolve(model)
        except ModelNotServed:  # said when the generation is ready, if it is still so
            return None
        return None if resolved is None else self._models.dispatcher(resolved)

    def _name(self, expected: _Expected) -> str:
        return ".".join((*self._key, expected.planned.writes))

"""Which models are served, and which dispatcher hands out the work of each."""

from __future__ import annotations

from contextlib import suppress

from parrot_mq.actors import ActorRef
from parrot_mq.coordinator.protocol import ModelsChanged
from parrot_mq.errors import ActorStopped, ModelNotServed

__all__ = ["Models"]


class Models:
    """A directory that the registry fills and sessions read."""

    def __init__(self) -> None:
        self._dispatchers: dict[str, ActorRef] = {}
        self._waiting: dict[ActorRef, None] = {}  # in the order in which they asked
        self._is_settled = False

    @property
    def names(self) -> list[str]:
        """The models that are served, sorted."""
        return sorted(self._dispatchers)

    def resolve(self, model: str) -> str | None:
        """The model that a task means by `model`; empty means the only one that is served.

        Returns:
            None while it is too early to say: workers may still report.

        Raises:
            ModelNotServed: Nobody serves it; names those that are served.
        """
        if model in self._dispatchers:
            return model
        if not model and len(self._dispatchers) == 1:
            return next(iter(self._dispatchers))
        if self._is_settled or (not model and self._dispatchers):
            raise ModelNotServed(model=model, served=self.names)
        return None

    def dispatcher(self, model: str) -> ActorRef:
        """The dispatcher of a model that `resolve` returned."""
        return self._dispatchers[model]

    def notify(self, ref: ActorRef) -> None:
        """Tell `ref` once when the directory changes."""
        self._waiting[ref] = None

    async def add(self, model: str, dispatcher: ActorRef) -> None:
        """A model is served from now on."""
        self._dispatchers[model] = dispatcher
        await self._changed()

    async def settle(self) -> None:
        """From now on a model that is not here is not served."""
        self._is_settled = True
        await self._changed()

    async def _changed(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for ref in waiting:
            with suppress(ActorStopped):  # a session that was closed and dropped meanwhile
                await ref.tell(ModelsChanged())

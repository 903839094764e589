"""Steps that the coordinator runs by itself: transforms, and lists that are gathered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from parrot_mq.actors import ActorRef
from parrot_mq.coordinator.facts import Facts
from parrot_mq.coordinator.protocol import GenerationFailed, SessionKey
from parrot_mq.coordinator.sessions.steps import PlannedList, PlannedTransform
from parrot_mq.errors import BlobMissing, ProgramError
from parrot_mq.messages import Value, VariableAddress
from parrot_mq.program.transforms import apply_transforms, encode_list, is_slow
from parrot_mq.types import VariableId

__all__ = ["LocalSteps", "LocalStep", "Run"]

MAX_RUNNING = 64

LocalStep = PlannedTransform | PlannedList
Run = Callable[[Coroutine[Any, Any, object]], "asyncio.Task[object]"]
"""Runs something beside the messages of the session."""


class LocalSteps:
    """Those of one session. What comes of a step is stored, and comes back as a fact; the session hears of a failure.

    Delivery: a step may run twice; what it stores is the same.
    """

    def __init__(self, key: SessionKey, facts: Facts, session: ActorRef, run: Run) -> None:
        self._key = key
        self._facts = facts
        self._session = session
        self._run = run
        self._room = asyncio.Semaphore(MAX_RUNNING)
        self._running: dict[VariableId, asyncio.Task[object]] = {}

    def start(self, step: LocalStep, values: Mapping[VariableId, Value]) -> None:
        """Begin with a step; all that it reads is among `values`."""
        if step.writes not in self._running:
            read = [values[name] for name in step.reads]
            task = self._run(self._work(step, read))
            self._running[step.writes] = task
            task.add_done_callback(lambda _: self._running.pop(step.writes, None))

    async def cancel_all(self) -> None:
        """Stop all that runs, and wait until it has stopped."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _work(self, step: LocalStep, read: list[Value]) -> None:
        address = VariableAddress(*self._key, step.writes)
        try:
            async with self._room:
                texts = [await self._facts.text(self._key.tenant, value) for value in read]
                if isinstance(step, PlannedList):
                    await self._facts.store(address, encode_list(texts))
                else:
                    await self._transform(step, texts[0], address)
        except (ProgramError, BlobMissing) as error:
            await self._session.tell(GenerationFailed(step.writes, error))

    async def _transform(self, step: PlannedTransform, text: str, address: VariableAddress) -> None:
        if is_slow(step.transforms, text):
            made = await asyncio.to_thread(apply_transforms, step.transforms, text)
        else:
            made = apply_transforms(step.transforms, text)
        if isinstance(made, str):
            await self._facts.store(address, made)
        else:
            await self._facts.store_items(address, made)
            await self._facts.store(address, encode_list(made))

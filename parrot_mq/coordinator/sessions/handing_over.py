"""Hands over what is ready: to dispatchers, to the caller of native functions, or to the session itself."""

from __future__ import annotations

from parrot_mq.actors import ActorRef
from parrot_mq.coordinator.protocol import Call, Done, Enqueue
from parrot_mq.coordinator.sessions.expectations import Expectations
from parrot_mq.coordinator.sessions.local_steps import LocalSteps
from parrot_mq.coordinator.sessions.ready import Known, ReadyCall, ReadyGeneration
from parrot_mq.coordinator.sessions.session_state import Assignment, SessionState
from parrot_mq.coordinator.sessions.steps import Items, PlannedCall, PlannedGeneration, PlannedMap, Segment, fill
from parrot_mq.coordinator.sessions.surroundings import Surroundings
from parrot_mq.coordinator.sessions.task import Task
from parrot_mq.errors import FunctionNotServed
from parrot_mq.messages import VariableAddress
from parrot_mq.messages.values import MAX_INLINE_BYTES
from parrot_mq.observability import use_trace
from parrot_mq.program import Node
from parrot_mq.program.transforms import decode_list
from parrot_mq.types import VariableId

__all__ = ["HandingOver"]

_MAX_SHOWN = 200


class HandingOver:
    """What is ready in one session, and who has it."""

    def __init__(
        self,
        around: Surroundings,
        *,
        state: SessionState,
        session: ActorRef,
        expectations: Expectations,
        local: LocalSteps,
    ) -> None:
        self._key = around.key
        self._facts = around.facts
        self._models = around.models
        self._caller = around.caller
        self._events = around.events
        self._salt = around.salt
        self._state = state
        self._session = session
        self._expectations = expectations
        self._local = local

    async def give(self, task: Task, node: Node) -> None:
        """Hand a step over; all that it reads is set.

        Raises:
            ModelNotServed: Nobody serves the model of the task.
            FunctionNotServed: A variable names a function that the task does not allow.
            TransformError: Something that is read as a list is none.
            BlobMissing: A large text is not in the store.
        """
        match task.steps[node.writes]:
            case PlannedGeneration() as planned:
                await self._generate(task, node, planned)
            case PlannedCall() as planned:
                await self._call(task, planned)
            case PlannedMap():
                raise AssertionError("a map is expanded, and not handed over")
            case step:
                with use_trace(self._events.traces.of(task.address)):
                    self._local.start(step, self._state.values)

    async def _generate(self, task: Task, node: Node, planned: PlannedGeneration) -> None:
        model = self._models.resolve(task.model)
        if model is None:
            self._state.homeless[node.writes] = node
            self._models.notify(self._session)
            return
        segments = await self._fill(planned.segments)
        dispatcher = self._models.dispatcher(model)
        generation = self._to_ready(task, planned, model, segments)
        self._note_ready(task, planned.writes, dispatcher, generation.key)
        await dispatcher.tell(Enqueue(generation, self._session))

    def _to_ready(
        self, task: Task, planned: PlannedGeneration, model: str, segments: tuple[Known, ...]
    ) -> ReadyGeneration:
        standing = self._state.objectives.standing(planned.writes)
        deadline = self._deadline(task, planned.writes)
        return planned.to_ready(task.address, model, deadline, segments, standing=standing, salt=self._salt)

    async def _call(self, task: Task, planned: PlannedCall) -> None:
        arguments = {name: await self._join(segments) for name, segments in planned.arguments.items()}
        call = ReadyCall(
            address=VariableAddress(*self._key, planned.writes),
            task=task.address.task,
            function=await self._function(planned),
            arguments=arguments,
            outputs=planned.outputs,
            deadline=self._deadline(task, planned.writes),
            attempt_timeout_s=planned.attempt_timeout_s,
            max_attempts=planned.max_attempts,
        )
        self._note_ready(task, planned.writes, self._caller, call.key)
        await self._caller.tell(Call(call, self._session))

    async def _function(self, planned: PlannedCall) -> str:
        if isinstance(planned.function, str):
            return planned.function
        name = (await self._text(VariableId(planned.function.variable))).strip()
        if name not in planned.choices:
            choices = ", ".join(planned.choices)
            remedy = f"the variable {planned.function.variable!r} has to name one of {choices}"
            raise FunctionNotServed(function=name[:_MAX_SHOWN], remedy=remedy)
        return name

    def _note_ready(self, task: Task, name: VariableId, runner: ActorRef, key: str) -> None:
        state = self._state
        state.enqueued[name] = Assignment(runner, key)
        self._expectations.drop(name)
        standing = state.objectives.standing(name)
        self._events.emit(task.address, "ready", variable=name, objective=standing.objective, group=standing.group)

    def _deadline(self, task: Task, name: VariableId) -> float:
        expires_at = self._state.objectives.expires_at(name)
        return task.deadline if expires_at is None else min(task.deadline, expires_at)

    # -- texts -------------------------------------------------------------------------------------------------------

    async def items(self, name: VariableId) -> list[str]:
        """The items of a list variable that is set.

        Raises:
            TransformError: It is no list.
        """
        return decode_list(await self._text(name), variable=name)

    async def _text(self, name: VariableId) -> str:
        return await self._facts.text(self._key.tenant, self._state.values[name])

    async def _fill(self, segments: tuple[Segment, ...]) -> tuple[Known, ...]:
        """The texts of segments; what is too large to travel is a claim check."""
        names = {segment.variable for segment in segments if isinstance(segment, Items)}
        lists = {name: await self.items(name) for name in names}
        filled = fill(segments, self._state.values, lists)
        return tuple([await self._fit(each) if isinstance(each, str) else each for each in filled])

    async def _fit(self, text: str) -> Known:
        """A text that is too large to travel becomes a claim check."""
        is_small = len(text) <= MAX_INLINE_BYTES // 4 or len(text.encode()) <= MAX_INLINE_BYTES
        return text if is_small else await self._facts.put_blob(self._key.tenant, text)

    async def _join(self, segments: tuple[Segment, ...]) -> Known:
        """One text of several."""
        filled = await self._fill(segments)
        if len(filled) == 1:
            return filled[0]
        texts = [await self._facts.text(self._key.tenant, each) for each in filled]
        return await self._fit("".join(texts))

    # -- taking back -------------------------------------------------------------------------------------------------

    def had_by(self, runner: ActorRef) -> list[Node]:
        """What a dispatcher, or the caller, has been given and not finished."""
        there = [name for name, assignment in self._state.enqueued.items() if assignment.dispatcher == runner]
        nodes = [self._state.graph.producer(name) for name in there]
        return [node for node in nodes if node is not None]

    async def withdraw_all(self) -> None:
        """Take back all that was handed over; whoever has it stops it where it runs."""
        await self._local.cancel_all()
        for assignment in self._state.enqueued.values():
            await assignment.dispatcher.tell(Done((assignment.key,)))

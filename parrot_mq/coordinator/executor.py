"""Runs the graph of one session: tasks are entered, variables are stored, what is ready goes to its dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable

from parrot_mq.actors import ActorRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator.events import Events
from parrot_mq.coordinator.expectations import Expectations
from parrot_mq.coordinator.facts import Facts
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import Done, Enqueue, Expire, GenerationFailed, Judge, SessionKey
from parrot_mq.coordinator.ready import ReadyGeneration
from parrot_mq.coordinator.session_state import Assignment, SessionState
from parrot_mq.coordinator.task import Refusal, Task, read_task
from parrot_mq.coordinator.tenants import Quotas
from parrot_mq.errors import CodecError, DeadlineExceeded, DuplicateProducer, InputFailed, ParrotError, TaskCancelled
from parrot_mq.messages import ErrorInfo, SessionMark, TaskAddress, Usage, Value, VariableAddress
from parrot_mq.program import Node, Standing
from parrot_mq.types import VariableId

__all__ = ["GraphExecutor"]

MAX_JUDGED = 1000
"""Most generations of which one message to a dispatcher says what is wanted."""


class GraphExecutor:
    """The work of a session actor. It waits only for facts to be stored and for room in a dispatcher's mailbox.

    Source: Parrot (OSDI'24) section 5.1.
    """

    def __init__(
        self,
        key: SessionKey,
        *,
        facts: Facts,
        models: Models,
        events: Events,
        session: ActorRef,
        quotas: Quotas,
        salt: str,
    ) -> None:
        self._key = key
        self._facts = facts
        self._models = models
        self._events = events
        self._session = session
        self._quotas = quotas
        self._salt = salt
        self._knows_all = False  # every variable of the session that is set is among the values
        self._unsure: set[VariableId] = set()
        self.state = SessionState(".".join(key))
        self._expectations = Expectations(self.state, models, session, salt=salt)

    async def open(self) -> None:
        """Find out whether the session begins just now: then nothing has ever to be looked up."""
        if not self.state.tasks and not self.state.values:
            self._knows_all = await self._facts.is_new_session(self._key)

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def enter_arrived(self) -> None:
        """Enter the tasks that arrived, in order."""
        state = self.state
        arrived, state.arrived = state.arrived, {}
        tasks = [self._read_task(*each) for each in arrived.items() if self._is_new(each[0])]
        await self._look_up([task for task in tasks if isinstance(task, Task)])
        entered = []
        for task in tasks:
            if isinstance(task, Refusal):
                await self._refuse(task)
            elif await self._enter(task):
                entered.append(task)
        await self._deduce()  # before anything is handed over, so that it goes with what is wanted of it
        for task in entered:
            await self._begin(task)
        self._forget_values()

    def _is_new(self, address: TaskAddress) -> bool:
        """Whether there is something to do: a task may come twice, the second time when it is settled already."""
        return address.task not in self.state.tasks and self._facts.is_unfinished(address)

    def _read_task(self, address: TaskAddress, delivery: Delivery) -> Task | Refusal:
        return read_task(address, delivery, is_inherited=self._facts.is_inherited(delivery))

    async def _look_up(self, tasks: list[Task]) -> None:
        """Fetch what is set already and not known here."""
        if self._knows_all:
            return
        wanted = {name for task in tasks for p in task.generations.values() for name in (p.writes, *p.reads)}
        wanted -= self.state.values.keys()
        await self._read(wanted)
        self._unsure |= wanted - self.state.values.keys()

    @property
    def is_unsure(self) -> bool:
        """Whether something was looked up and not found."""
        return bool(self._unsure)

    async def look_again(self) -> None:
        """Look up once more what was not found: in a cluster, the server that answered may have been behind."""
        unsure, self._unsure = self._unsure, set()
        await self._read(unsure - self.state.values.keys())

    async def look_up(self, name: VariableId) -> None:
        """Look up an output that may be set without our knowing."""
        if name in self.state.writers:
            await self._read([name])

    async def _read(self, names: Collection[VariableId]) -> None:
        if not names:
            return
        for name, value in (await self._facts.values(self._key, sorted(names))).items():
            await self._store(name, value)

    async def _enter(self, task: Task) -> bool:
        """Take a task into the graph; returns whether there is something to do for it."""
        state = self.state
        task.unset = {name for name in task.unset if name not in state.values}  # not O(all values)
        if not task.unset:
            await self._facts.settle(task.address)
            return False
        try:
            self._quotas.admit(task.address, is_accepted=task.is_inherited)
            nodes = state.enter(task)
        except ParrotError as error:
            self._quotas.leave(task.address)
            await self._refuse(Refusal(task.address, sorted(task.unset), error))
            return False
        self._events.submitted(task.address, task.record, nodes)
        return True

    async def _begin(self, task: Task) -> None:
        """Hand over what is ready of a task, and tell what is known of the rest."""
        state = self.state
        for name in dict.fromkeys(name for planned in task.generations.values() for name in planned.reads):
            if isinstance(value := state.values.get(name), ErrorInfo):
                await self._spread(name, value)
        for name, planned in task.generations.items():
            node = state.graph.producer(name)
            if node is None or node.task != task.address.task:
                continue
            await self._expectations.found_producer(name)
            if state.graph.num_missing(name):
                await self._expectations.add(planned, task.record.model)
            elif name not in state.enqueued and name not in state.homeless:
                await self._place(node)

    async def _refuse(self, refusal: Refusal) -> None:
        """Say why on the outputs that no other task writes; keep the record if that does not tell everyone."""
        address, outputs, error = refusal
        free = [name for name in outputs if name not in self.state.writers]
        await self.fail((name, error) for name in free)
        self._events.emit(address, "rejected", error=ErrorInfo.from_error(error))
        if len(free) < len(outputs) or not outputs or isinstance(error, CodecError | DuplicateProducer):
            await self._facts.bury(address, error)
        else:
            await self._facts.settle(address)

    async def cancel(self, variables: Iterable[str]) -> int:
        """Give up the tasks that write `variables`, or all if there are none; returns how many."""
        writers = self.state.writers
        wanted = writers.keys() & set(variables) if variables else writers.keys()
        tasks = {writers[name].address: writers[name] for name in sorted(wanted)}
        for task in tasks.values():
            error = TaskCancelled(task=task.address.task)
            await self.fail((name, error) for name in sorted(task.unset))
        return len(tasks)

    async def expire(self, now: float) -> None:
        """Give up the tasks whose time is over, and the outputs that are of no use any more and have not begun."""
        for name in self.state.deadlines.pop_due(now):
            if (task := self.state.tasks.get(name)) is None:
                continue
            error = DeadlineExceeded(what=f"task {name!r}", timeout_s=task.record.timeout_s)
            await self.fail((name, error) for name in sorted(task.unset))
        for name in self.state.expiries.pop_due(now):
            await self._expire_output(VariableId(name))

    async def _expire_output(self, name: VariableId) -> None:
        deadline_s = self.state.objectives.standing(name).objective.deadline_s
        error = DeadlineExceeded(what=f"variable {name!r}", timeout_s=deadline_s or 0.0)
        if (assignment := self.state.enqueued.get(name)) is None:
            await self.fail([(name, error)])
        else:  # the dispatcher knows whether a worker has it
            await assignment.dispatcher.tell(Expire(assignment.key, GenerationFailed(name, error)))

    async def give_up(self, variable: VariableId, error: ParrotError) -> None:
        """A generation failed for good. Unless its time is over the record of its task is kept, for people."""
        task = self.state.writers.get(variable)
        if task is not None and not isinstance(error, DeadlineExceeded):
            await self._facts.keep_record(task.address, error)
        await self.fail([(variable, error)])

    # -- variables ---------------------------------------------------------------------------------------------------

    async def store(self, variable: VariableId, value: Value, producer: str, usage: Usage | None = None) -> None:
        """A variable is set, or has failed."""
        await self._store(variable, value, producer, usage)
        self._forget_values()

    async def _store(self, variable: VariableId, value: Value, producer: str = "", usage: Usage | None = None) -> None:
        state = self.state
        if variable in state.values:
            return
        state.store(variable, value)
        await self._settle_output(variable, value, producer, usage)
        if isinstance(value, ErrorInfo):
            await self._spread(variable, value)
        else:
            for node in state.graph.resolve(variable):
                await self._place(node)
            for node in state.graph.consumers(variable):
                await self._expectations.extend(node.writes, variable)
        await self._deduce()

    async def _settle_output(self, variable: VariableId, value: Value, producer: str, usage: Usage | None) -> None:
        state = self.state
        task = state.writers.pop(variable, None)
        if task is None:
            return
        if isinstance(value, ErrorInfo):
            self._events.emit(task.address, "failed", variable=variable, error=value)
        state.finish(variable)
        await self._expectations.withdraw([variable])
        if (assignment := state.enqueued.pop(variable, None)) is not None:
            await assignment.dispatcher.tell(Done((assignment.key,), producer, usage))
        task.unset.discard(variable)
        if not task.unset:
            state.leave(task)
            self._quotas.leave(task.address)
            await self._facts.settle(task.address)

    async def _spread(self, variable: VariableId, cause: ErrorInfo) -> None:
        """Fail everything that waits for a variable that failed, directly or not, with the first cause of it all."""
        code, sentence = cause.code, cause.message
        if code == InputFailed.code:
            code, sentence = str(cause.facts.get("cause_code", code)), str(cause.facts.get("cause", sentence))
        failed = self.state.fail(variable)
        await self._expectations.withdraw(node.writes for node, _ in failed)
        await self.fail(
            (node.writes, InputFailed(variable=read, cause_code=code, cause=sentence)) for node, read in failed
        )

    async def fail(self, failures: Iterable[tuple[VariableId, ParrotError]]) -> None:
        """Give variables an error; it comes back as a fact. What was set before is looked up: its fact was missed."""
        unset = [(name, error) for name, error in failures if name not in self.state.values]
        failing = ((VariableAddress(*self._key, name), error) for name, error in unset)
        if missed := await self._facts.fail(failing):
            await self._read(missed)

    def _forget_values(self) -> None:
        """Keep the memory of a session that goes on and on bounded; only between tasks that are entered."""
        if self.state.forget_values():
            self._knows_all = False

    # -- objectives --------------------------------------------------------------------------------------------------

    async def mark(self, mark: SessionMark) -> None:
        """Somebody says what is wanted of variables."""
        for name in mark.variables:
            self.state.mark(VariableId(name), mark.objective, only_unmarked=mark.only_unmarked)
        await self._deduce()

    async def _deduce(self) -> None:
        """Tell the dispatchers of what they have what is wanted of it now, as far as that has changed."""
        told: dict[ActorRef, list[tuple[str, Standing]]] = {}
        for name, standing in self.state.objectives.deduce().items():
            assignment = self.state.enqueued.get(name) or self._expectations.get(name)
            if assignment is not None:
                told.setdefault(assignment.dispatcher, []).append((assignment.key, standing))
        for dispatcher, standings in told.items():
            for begin in range(0, len(standings), MAX_JUDGED):
                await dispatcher.tell(Judge(tuple(standings[begin : begin + MAX_JUDGED])))
                await asyncio.sleep(0)  # others have their turn between large parts

    # -- ready -------------------------------------------------------------------------------------------------------

    async def _place(self, node: Node) -> None:
        """Hand a ready generation to the dispatcher of its model."""
        state = self.state
        task = state.writers.get(node.writes)
        if task is None:
            return
        try:
            model = self._models.resolve(task.record.model)
        except ParrotError as error:
            await self.fail([(node.writes, error)])
            return
        if model is None:
            state.homeless[node.writes] = node
            self._models.notify(self._session)
            return
        generation = self._to_ready(task, node, model)
        dispatcher = self._models.dispatcher(model)
        state.enqueued[node.writes] = Assignment(dispatcher, generation.key)
        self._expectations.drop(node.writes)
        standing = generation.standing
        self._events.emit(
            task.address, "ready", variable=node.writes, objective=standing.objective, group=standing.group
        )
        await dispatcher.tell(Enqueue(generation, self._session))

    def _to_ready(self, task: Task, node: Node, model: str) -> ReadyGeneration:
        state, name = self.state, node.writes
        values = {read: value for read in node.reads if not isinstance(value := state.values[read], ErrorInfo)}
        expires_at = state.objectives.expires_at(name)
        deadline = task.deadline if expires_at is None else min(task.deadline, expires_at)
        return task.generations[name].to_ready(
            task.address, model, deadline, values, standing=state.objectives.standing(name), salt=self._salt
        )

    async def place_homeless(self) -> None:
        """Try again what is for a model of which nobody knew whether it is served."""
        homeless, self.state.homeless = self.state.homeless, {}
        for node in homeless.values():
            await self._place(node)
        await self._expectations.tell_untold()

    async def enqueue_again(self, dispatcher: ActorRef) -> None:
        """Hand over once more what a dispatcher had that has been restarted."""
        there = [name for name, assignment in self.state.enqueued.items() if assignment.dispatcher == dispatcher]
        for name in there:
            if (node := self.state.graph.producer(name)) is not None:
                await self._place(node)
        await self._expectations.tell_again(dispatcher)

    async def withdraw_all(self) -> None:
        """Take back what dispatchers have, who stop it where it runs, and let go of all tasks."""
        for assignment in self.state.enqueued.values():
            await assignment.dispatcher.tell(Done((assignment.key,)))
        await self._expectations.withdraw_all()
        for task in self.state.tasks.values():
            self._quotas.leave(task.address)

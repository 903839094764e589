"""Runs the graph of one session: tasks are entered, variables are stored, what is ready goes to its dispatcher."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence

from parrot_mq.actors import ActorRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator.facts import Failure
from parrot_mq.coordinator.protocol import Done, Expire, GenerationFailed, Judge
from parrot_mq.coordinator.sessions.expectations import Expectations
from parrot_mq.coordinator.sessions.handing_over import HandingOver
from parrot_mq.coordinator.sessions.local_steps import LocalSteps, Run
from parrot_mq.coordinator.sessions.planning import expand_map
from parrot_mq.coordinator.sessions.session_state import SessionState
from parrot_mq.coordinator.sessions.steps import PlannedGeneration, PlannedList, PlannedMap, PlannedTransform
from parrot_mq.coordinator.sessions.surroundings import Surroundings
from parrot_mq.coordinator.sessions.task import Refusal, Task, read_task
from parrot_mq.errors import (
    BlobMissing,
    CodecError,
    DeadlineExceeded,
    DuplicateProducer,
    InputFailed,
    ParrotError,
    ProgramError,
    TaskCancelled,
    TransformError,
)
from parrot_mq.messages import ErrorInfo, SessionMark, TaskAddress, Usage, Value, VariableAddress
from parrot_mq.observability import TraceContext
from parrot_mq.program import Node, Standing
from parrot_mq.types import VariableId

__all__ = ["GraphExecutor"]

STEPS_PER_TURN = 200
MAX_JUDGED = 1000
"""Most generations of which one message to a dispatcher says what is wanted."""


class GraphExecutor:
    """The work of a session actor. It waits only for facts to be stored and for room in a dispatcher's mailbox.

    Source: Parrot (OSDI'24) section 5.1.
    """

    def __init__(self, around: Surroundings, *, session: ActorRef, run: Run) -> None:
        self._key = around.key
        self._facts = around.facts
        self._events = around.events
        self._quotas = around.quotas
        self._knows_all = False  # every variable of the session that is set is among the values
        self._unsure: set[VariableId] = set()
        self.state = SessionState(".".join(around.key))
        self._expectations = Expectations(self.state, around.models, session, salt=around.salt)
        self._handing_over = HandingOver(
            around,
            state=self.state,
            session=session,
            expectations=self._expectations,
            local=LocalSteps(around.key, around.facts, session, run),
        )

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
        known = [task for task in tasks if isinstance(task, Task)]
        await self._look_up({name for task in known for s in task.steps.values() for name in (s.writes, *s.reads)})
        entered = []
        for task in tasks:
            if isinstance(task, Refusal):
                await self._refuse(task)
            elif await self._enter(task):
                entered.append(task)
        await self._deduce()  # before anything is handed over, so that it goes with what is wanted of it
        for task in entered:
            await self._begin(task, list(task.steps))
        self._forget_values()

    def _is_new(self, address: TaskAddress) -> bool:
        """Whether there is something to do: a task may come twice, the second time when it is settled already."""
        return address.task not in self.state.tasks and self._facts.is_unfinished(address)

    def _read_task(self, address: TaskAddress, delivery: Delivery) -> Task | Refusal:
        self._events.arrived(address, delivery)
        return read_task(address, delivery, is_inherited=self._facts.is_inherited(delivery))

    async def _look_up(self, names: set[VariableId]) -> None:
        """Fetch what is set already and not known here."""
        if self._knows_all:
            return
        wanted = names - self.state.values.keys()
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
            self._events.settled(task.address)
            await self._facts.settle(task.address)
            return False
        try:
            self._quotas.admit(task.address, is_accepted=task.is_inherited)
            nodes = state.enter(task)
        except ParrotError as error:
            self._quotas.leave(task.address)
            await self._refuse(Refusal(task.address, sorted(task.unset), error))
            return False
        self._events.submitted(task, nodes)
        return True

    async def _begin(self, task: Task, names: Sequence[VariableId]) -> None:
        """Hand over what is ready of the steps that write `names`, and tell what is known of the rest."""
        state = self.state
        for read in dict.fromkeys(read for name in names for read in task.steps[name].reads):
            if isinstance(value := state.values.get(read), ErrorInfo):
                await self._spread(read, value)
        for index, name in enumerate(names, start=1):
            if index % STEPS_PER_TURN == 0:
                await asyncio.sleep(0)  # a map may have thousands: others have their turn between them
            node, step = state.graph.producer(name), task.steps[name]
            if node is None or node.task != task.address.task or node.reads != step.reads:
                continue
            await self._expectations.found_producer(name)
            if not state.graph.num_missing(name):
                if name not in state.enqueued and name not in state.homeless:
                    await self._place(node)
            elif isinstance(step, PlannedGeneration):
                await self._expectations.add(step, task.model)

    async def _refuse(self, refusal: Refusal) -> None:
        """Say why on the outputs that no other task writes; keep the record if that does not tell everyone."""
        address, outputs, error = refusal
        free = [name for name in outputs if name not in self.state.writers]
        await self.fail(((name, error) for name in free), of=address)
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
        """A step failed for good. The record of its task is kept, unless its time is over or a text did not fit."""
        task = self.state.writers.get(variable)
        if task is not None and not isinstance(error, DeadlineExceeded | TransformError):
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
            self._events.settled(task.address)
            await self._facts.settle(task.address)

    async def _spread(self, variable: VariableId, cause: ErrorInfo) -> None:
        """Fail everything that waits for a variable that failed, directly or not, with the first cause of it all."""
        code, sentence = cause.code, cause.message
        if code == InputFailed.code:
            code, sentence = str(cause.facts.get("cause_code", code)), str(cause.facts.get("cause", sentence))
        failed = self.state.fail(variable)
        await self._expectations.withdraw(node.writes for node, _ in failed)
        failures: list[tuple[VariableId, ParrotError]] = []
        for node, read in failed:
            if read == variable and self._is_made_of(node):
                failures.append((node.writes, cause.to_error()))
            else:
                failures.append((node.writes, InputFailed(variable=read, cause_code=code, cause=sentence)))
        await self.fail(failures)

    def _is_made_of(self, node: Node) -> bool:
        """Whether what a node reads is its own output in another form, so that it ends with the same error."""
        task = self.state.writers.get(node.writes)
        return task is not None and isinstance(task.steps[node.writes], PlannedTransform | PlannedList)

    async def fail(self, failures: Iterable[tuple[VariableId, ParrotError]], *, of: TaskAddress | None = None) -> None:
        """Give variables an error; it comes back as a fact. What was set before is looked up: its fact was missed.

        Args:
            failures: The variables, each with why.
            of: Whose outputs they are, if that task is not entered.
        """
        unset = [(name, error) for name, error in failures if name not in self.state.values]
        failing = (Failure(VariableAddress(*self._key, name), error, self._trace(name, of)) for name, error in unset)
        if missed := await self._facts.fail(failing):
            await self._read(missed)

    def _trace(self, name: VariableId, of: TaskAddress | None) -> TraceContext | None:
        task = self.state.writers.get(name)
        address = task.address if task is not None else of
        return self._events.traces.of(address) if address is not None else None

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
        """Hand over what is ready, or plan it if it is a map; whatever is wrong with it becomes its error."""
        task = self.state.writers.get(node.writes)
        if task is None or self.state.graph.producer(node.writes) is not node:
            return
        is_map = isinstance(task.steps[node.writes], PlannedMap)
        try:
            await (self._expand(task, node) if is_map else self._handing_over.give(task, node))
        except (ProgramError, CodecError, BlobMissing) as problem:
            error: ParrotError = problem
            await self.fail((name, error) for name in (sorted(task.unset) if is_map else [node.writes]))

    async def _expand(self, task: Task, node: Node) -> None:
        """Plan the steps of a map, now that the lists are known that it goes through."""
        lists = {name: await self._handing_over.items(name) for name in node.reads}
        steps = expand_map(task.record, lists)
        await self._look_up({name for step in steps for name in (step.writes, *step.reads)})
        if self.state.graph.producer(node.writes) is not node:
            return  # it is set, and that was missed here
        nodes = self.state.expand(task, steps)
        self._events.submitted(task, nodes)
        await self._deduce()
        await self._begin(task, [step.writes for step in steps])

    async def place_homeless(self) -> None:
        """Try again what is for a model of which nobody knew whether it is served."""
        homeless, self.state.homeless = self.state.homeless, {}
        for node in homeless.values():
            await self._place(node)
        await self._expectations.tell_untold()

    async def enqueue_again(self, runner: ActorRef) -> None:
        """Hand over once more what a dispatcher had, or the caller, that has been restarted."""
        for node in self._handing_over.had_by(runner):
            await self._place(node)
        await self._expectations.tell_again(runner)

    async def withdraw_all(self) -> None:
        """Take back what was handed over, and let go of all tasks."""
        await self._handing_over.withdraw_all()
        await self._expectations.withdraw_all()
        for task in self.state.tasks.values():
            self._quotas.leave(task.address)
            self._events.settled(task.address)

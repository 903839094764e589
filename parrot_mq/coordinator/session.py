"""One actor for each live session: facts in, ready generations out, errors as values."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from parrot_mq.actors import Actor, ActorRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator.events import Events
from parrot_mq.coordinator.facts import Facts
from parrot_mq.coordinator.models import Models
from parrot_mq.coordinator.protocol import (
    Done,
    Enqueue,
    EnterTasks,
    ExpireTasks,
    GenerationFailed,
    ModelsChanged,
    SessionIdle,
    SessionKey,
    TaskArrived,
    VariableStored,
)
from parrot_mq.coordinator.ready import PlannedGeneration, plan_task
from parrot_mq.errors import (
    CodecError,
    DeadlineExceeded,
    DuplicateProducer,
    EngineFailure,
    InputFailed,
    ParrotError,
    TaskCancelled,
)
from parrot_mq.messages import (
    ErrorInfo,
    PromptTask,
    SessionCancel,
    SessionClose,
    SessionOpen,
    SessionReply,
    TaskAddress,
    Value,
    VariableAddress,
    decode,
    salvage_outputs,
)
from parrot_mq.program import Graph, Node
from parrot_mq.types import VariableId

__all__ = ["SessionActor"]


@dataclass(slots=True)
class Task:
    """A task that is not finished."""

    address: TaskAddress
    record: PromptTask
    deadline: float
    generations: dict[VariableId, PlannedGeneration]
    unset: set[VariableId]
    """Outputs that are not set yet."""


@dataclass(slots=True)
class Assignment:
    """Where a ready generation was enqueued."""

    dispatcher: ActorRef
    key: str


@dataclass(slots=True)
class SessionState:
    """All that is known of a session; rebuilt from the facts after a restart."""

    graph: Graph = field(default_factory=Graph)
    values: dict[VariableId, Value] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    writers: dict[VariableId, Task] = field(default_factory=dict)
    arrived: list[TaskArrived] = field(default_factory=list)
    enqueued: dict[VariableId, Assignment] = field(default_factory=dict)
    homeless: dict[VariableId, Node] = field(default_factory=dict)
    """Ready, but for a model of which nobody knows yet whether it is served."""
    deadlines: list[tuple[float, str]] = field(default_factory=list)
    """A heap; tasks that ended early are skipped when their time comes."""


class SessionActor(Actor):
    """Turns the facts of one session into ready generations.

    Whatever goes wrong with a task becomes an error on its outputs. Failures spread by the facts themselves: an error
    that is stored comes back as a fact and fails the tasks that read it.

    Delivery: every message may come twice; the second time changes nothing.
    """

    def __init__(
        self, key: SessionKey, *, facts: Facts, models: Models, events: Events, coordinator: ActorRef, idle_s: float
    ) -> None:
        self._key = key
        self._facts = facts
        self._models = models
        self._events = events
        self._coordinator = coordinator
        self._idle_s = idle_s
        self._state = SessionState()
        self._knows_all = False
        self._alarm: asyncio.Task[object] | None = None

    async def on_start(self) -> None:
        """Take up what is unfinished; after a restart of this actor that is what it had taken before."""
        for address, delivery in self._facts.unfinished(self._key):
            self._take(TaskArrived(address, delivery))
        self._watch_idleness()

    async def receive(self, message: object) -> object:
        if not isinstance(message, SessionIdle):
            self._last_active = self.context.clock.monotonic()
        match message:
            case VariableStored(variable=variable, value=value, producer=producer):
                await self._store(variable, value, producer)
            case TaskArrived():
                self._take(message)
            case EnterTasks():
                await self._enter_arrived()
            case ExpireTasks():
                await self._expire()
            case ModelsChanged():
                await self._place_homeless()
            case GenerationFailed(variable=variable, error=error):
                await self._fail([(variable, error)])
            case SessionOpen():
                return await self._open()
            case SessionCancel(variables=variables):
                return await self._cancel(variables)
            case SessionClose():
                return await self._close()
            case SessionIdle():
                await self._offer_to_stop()
        return None

    # -- tasks -------------------------------------------------------------------------------------------------------

    def _take(self, arrived: TaskArrived) -> None:
        """Keep a task until all that is in the mailbox is read, so that one look-up serves many."""
        if not self._state.arrived:
            self.context.tell_self_nowait(EnterTasks())
        self._state.arrived.append(arrived)

    async def _enter_arrived(self) -> None:
        arrived, self._state.arrived = self._state.arrived, []
        tasks = [task for each in arrived if (task := await self._read(each)) is not None]
        await self._look_up(tasks)
        for task in tasks:
            await self._enter(task)
        self._arm_deadline()

    async def _read(self, arrived: TaskArrived) -> Task | None:
        if arrived.address.task in self._state.tasks:
            return None
        try:
            return self._plan(arrived.address, arrived.delivery)
        except ParrotError as error:
            await self._refuse(arrived.address, arrived.delivery, error)
        except Exception as error:
            self.context.log.exception("task_crashed", task=arrived.address.task)
            failure = EngineFailure(cause=f"{type(error).__name__}: {error}")
            await self._refuse(arrived.address, arrived.delivery, failure)
        return None

    def _plan(self, address: TaskAddress, delivery: Delivery) -> Task:
        record = decode(delivery.payload, PromptTask, delivery.headers)
        generations = {planned.writes: planned for planned in plan_task(record)}
        if len(generations) < len(record.outputs):
            raise DuplicateProducer(variable=_first_repeated(record), producer=address.task)
        deadline = delivery.timestamp + record.timeout_s
        return Task(address, record, deadline, generations, set(generations))

    async def _refuse(self, address: TaskAddress, delivery: Delivery, error: ParrotError) -> None:
        """Give every output that can be made out the error, keep the record, and take the task out of the work."""
        outputs = salvage_outputs(delivery.payload)
        await self._facts.fail((self._address(VariableId(name)), error) for name in outputs)
        self._events.emit(address, "rejected", error=ErrorInfo.from_error(error))
        if isinstance(error, CodecError) or not outputs:
            await self._facts.bury(address, error)
        else:
            await self._facts.settle(address)

    async def _look_up(self, tasks: list[Task]) -> None:
        """Fetch what is set already and not known here: unless this actor saw the session from its start."""
        if self._knows_all:
            return
        wanted = {name for task in tasks for p in task.generations.values() for name in (p.writes, *p.reads)}
        wanted -= self._state.values.keys()
        for name, value in (await self._facts.values(self._key, sorted(wanted))).items():
            await self._store(name, value)

    async def _enter(self, task: Task) -> None:
        state = self._state
        task.unset = {name for name in task.unset if name not in state.values}  # not O(all values)
        nodes = [
            Node(key=name, task=task.address.task, reads=task.generations[name].reads, writes=name)
            for name in task.generations
            if name in task.unset
        ]
        try:
            ready = state.graph.add(nodes, known=self._usable(nodes))
        except DuplicateProducer as error:
            self._events.emit(task.address, "rejected", error=ErrorInfo.from_error(error))
            await self._facts.bury(task.address, error)
            return
        except ParrotError as error:
            await self._facts.fail((self._address(name), error) for name in sorted(task.unset))
            await self._facts.settle(task.address)
            return
        state.tasks[task.address.task] = task
        state.writers.update(dict.fromkeys(task.unset, task))
        heapq.heappush(state.deadlines, (task.deadline, task.address.task))
        self._events.submitted(task.address, task.record, nodes)
        await self._after_entering(task, nodes, ready)

    def _usable(self, nodes: list[Node]) -> set[VariableId]:
        """What the nodes read and has a text."""
        values = self._state.values
        reads = {name for node in nodes for name in node.reads}
        return {name for name in reads if name in values and not isinstance(values[name], ErrorInfo)}

    async def _after_entering(self, task: Task, nodes: list[Node], ready: list[Node]) -> None:
        if not task.unset:
            await self._finish(task)
        for name in {name for node in nodes for name in node.reads}:
            if isinstance(value := self._state.values.get(name), ErrorInfo):
                await self._spread(name, value)
        for node in ready:
            await self._place(node)

    async def _finish(self, task: Task) -> None:
        self._state.tasks.pop(task.address.task, None)
        await self._facts.settle(task.address)

    # -- variables ---------------------------------------------------------------------------------------------------

    async def _store(self, variable: VariableId, value: Value, producer: str = "") -> None:
        state = self._state
        if variable in state.values:
            return
        state.values[variable] = value
        await self._settle_output(variable, value, producer)
        if isinstance(value, ErrorInfo):
            await self._spread(variable, value)
        else:
            for node in state.graph.resolve(variable):
                await self._place(node)

    async def _settle_output(self, variable: VariableId, value: Value, producer: str) -> None:
        state = self._state
        task = state.writers.pop(variable, None)
        if task is None:
            return
        if isinstance(value, ErrorInfo):
            self._events.emit(task.address, "failed", variable=variable, error=value)
        state.graph.finish(variable)
        state.homeless.pop(variable, None)
        if (assignment := state.enqueued.pop(variable, None)) is not None:
            await assignment.dispatcher.tell(Done((assignment.key,), producer))
        task.unset.discard(variable)
        if not task.unset:
            await self._finish(task)

    async def _spread(self, variable: VariableId, cause: ErrorInfo) -> None:
        """Fail everything that waits for a variable that failed, directly or not."""
        await self._fail(
            (node.writes, InputFailed(variable=read, cause_code=cause.code, cause=cause.message))
            for node, read in self._state.graph.fail(variable)
        )

    async def _fail(self, failures: Iterable[tuple[VariableId, ParrotError]]) -> None:
        unset = [(name, error) for name, error in failures if name not in self._state.values]
        await self._facts.fail((self._address(name), error) for name, error in unset)

    def _address(self, variable: VariableId) -> VariableAddress:
        return VariableAddress(self._key.tenant, self._key.session, variable)

    # -- ready -------------------------------------------------------------------------------------------------------

    async def _place(self, node: Node) -> None:
        """Hand a ready generation to the dispatcher of its model."""
        state = self._state
        task = state.writers.get(node.writes)
        if task is None:
            return
        try:
            model = self._models.resolve(task.record.model)
        except ParrotError as error:
            await self._fail([(node.writes, error)])
            return
        if model is None:
            state.homeless[node.writes] = node
            self._models.notify(self.context.ref)
            return
        values = {name: value for name in node.reads if not isinstance(value := state.values[name], ErrorInfo)}
        generation = task.generations[node.writes].to_ready(task.address, model, task.deadline, values)
        dispatcher = self._models.dispatcher(model)
        state.enqueued[node.writes] = Assignment(dispatcher, generation.key)
        self._events.emit(task.address, "ready", variable=node.writes)
        await dispatcher.tell(Enqueue(generation, self.context.ref))

    async def _place_homeless(self) -> None:
        homeless, self._state.homeless = self._state.homeless, {}
        for node in homeless.values():
            await self._place(node)

    # -- deadlines ---------------------------------------------------------------------------------------------------

    def _arm_deadline(self) -> None:
        """Be told when the next deadline passes."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._state.deadlines:
            delay_s = self._state.deadlines[0][0] - self.context.clock.now()
            self._alarm = self.context.after(max(delay_s, 0.0), ExpireTasks())

    async def _expire(self) -> None:
        state = self._state
        now = self.context.clock.now()
        while state.deadlines and state.deadlines[0][0] <= now:
            _, name = heapq.heappop(state.deadlines)
            if (task := state.tasks.get(name)) is not None:
                error = DeadlineExceeded(what=f"task {name!r}", timeout_s=task.record.timeout_s)
                await self._fail((variable, error) for variable in sorted(task.unset))
        self._arm_deadline()

    # -- control -----------------------------------------------------------------------------------------------------

    async def _open(self) -> SessionReply:
        if not self._state.tasks and not self._state.values:
            self._knows_all = await self._facts.is_new_session(self._key)
        return SessionReply()

    async def _cancel(self, variables: list[str]) -> SessionReply:
        await self._enter_arrived()
        wanted = self._state.writers.keys() & set(variables) if variables else set(self._state.writers)
        tasks = {task.address.task: task for name in wanted if (task := self._state.writers.get(name)) is not None}
        for task in tasks.values():
            error = TaskCancelled(task=task.address.task)
            await self._fail((name, error) for name in sorted(task.unset))
        return SessionReply(num_cancelled=len(tasks))

    async def _close(self) -> SessionReply:
        reply = await self._cancel([])
        for assignment in self._state.enqueued.values():
            await assignment.dispatcher.tell(Done((assignment.key,)))
        await self._facts.forget(self._key)
        self._state = SessionState()
        self._knows_all = False
        return reply

    # -- idleness ----------------------------------------------------------------------------------------------------

    def _watch_idleness(self) -> None:
        self._last_active = self.context.clock.monotonic()
        self.context.after(self._idle_s, SessionIdle(self._key))

    async def _offer_to_stop(self) -> None:
        """Ask to be dropped from memory after a time without work."""
        quiet_s = self.context.clock.monotonic() - self._last_active
        if self._state.tasks or self._state.arrived or quiet_s < self._idle_s:
            self.context.after(self._idle_s, SessionIdle(self._key))
        else:
            await self._coordinator.tell(SessionIdle(self._key))


def _first_repeated(record: PromptTask) -> str:
    names = [output.variable for output in record.outputs.values()]
    return next(name for name in names if names.count(name) > 1)

"""What the coordinator's actors tell each other inside the process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from parrot_mq.actors import ActorContext, ActorRef
from parrot_mq.bus import Delivery
from parrot_mq.coordinator.sessions.ready import Known, ReadyCall, ReadyGeneration
from parrot_mq.errors import MailboxFull, ParrotError
from parrot_mq.messages import TaskAddress, Usage, Value, WorkerStatus
from parrot_mq.program import Standing
from parrot_mq.types import SessionId, TenantId, VariableId

__all__ = [
    "Call",
    "CallerRestarted",
    "CameBack",
    "CheckLeases",
    "Dispatch",
    "DispatcherRestarted",
    "Done",
    "Enqueue",
    "EnqueueAgain",
    "EnterTasks",
    "Expect",
    "Expire",
    "ExpireTasks",
    "GenerationFailed",
    "GiveBack",
    "Judge",
    "LookAgain",
    "LookUp",
    "ModelsChanged",
    "SessionIdle",
    "SessionKey",
    "SettleModels",
    "StartOver",
    "TaskArrived",
    "VariableStored",
    "WorkerLost",
    "WorkerReport",
    "tell_self",
]


class SessionKey(NamedTuple):
    """Names a session."""

    tenant: TenantId
    session: SessionId


# -- to a session ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TaskArrived:
    """A task was taken from the stream."""

    address: TaskAddress
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class VariableStored:
    """A variable was set, or failed."""

    variable: VariableId
    value: Value
    producer: str
    """The worker that set it; empty when it was somebody else."""
    sequence: int
    """Its place in the stream."""
    usage: Usage | None = None
    """What it cost, if whoever set it said so."""


@dataclass(frozen=True, slots=True)
class EnterTasks:
    """Look up what the tasks that arrived need, then enter them into the graph."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Look up once more what was not found a moment ago."""


@dataclass(frozen=True, slots=True)
class ExpireTasks:
    """Give up the tasks whose deadline has passed."""


@dataclass(frozen=True, slots=True)
class ModelsChanged:
    """A model came, or the time in which one could come is over."""


@dataclass(frozen=True, slots=True)
class GenerationFailed:
    """The dispatcher gives a generation up."""

    variable: VariableId
    error: ParrotError


@dataclass(frozen=True, slots=True)
class StartOver:
    """A request failed midway: the session fails, too, so that it is restarted from the facts."""

    error: ParrotError


@dataclass(frozen=True, slots=True)
class LookUp:
    """A worker does not have a generation that it should have: maybe its output is set, and that was missed here."""

    variable: VariableId


@dataclass(frozen=True, slots=True)
class EnqueueAgain:
    """A dispatcher, or the caller, has been restarted and knows of nothing."""

    dispatcher: ActorRef


# -- to the caller ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """A native function is to be called. Its answer is stored as a fact; the session hears if it is given up.

    The caller takes `Done` and `Expire` as a dispatcher does.
    """

    call: ReadyCall
    session: ActorRef


# -- to a dispatcher -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Enqueue:
    """A generation is ready; the session hears if it is given up."""

    generation: ReadyGeneration
    session: ActorRef


@dataclass(frozen=True, slots=True)
class Expect:
    """A generation (by key) is not ready yet, but this is how its prompt begins. Once more when more of it is known.

    Attributes:
        key: Of the generation.
        prefixes: Hashes of the leading segments that are known.
        segments: These segments, as in `ReadyGeneration.segments`.
        waits_for: Keys of the generations whose outputs it waits for; what it waits for and nobody generates is named
            by the empty text.
        standing: What is wanted of it.
        salt: As in `ReadyGeneration.salt`.
    """

    key: str
    prefixes: tuple[str, ...]
    segments: tuple[Known, ...] = ()
    waits_for: tuple[str, ...] = ()
    standing: Standing = Standing()
    salt: str = ""


@dataclass(frozen=True, slots=True)
class Judge:
    """The graph has grown or a mark has changed: this is what is wanted of generations now (by key), ready or not."""

    standings: tuple[tuple[str, Standing], ...]


@dataclass(frozen=True, slots=True)
class Expire:
    """A generation (by key) is of no use any more: give it up with these words, unless a worker has it."""

    key: str
    failure: GenerationFailed


@dataclass(frozen=True, slots=True)
class CameBack:
    """A worker had a generation when it was to expire, and has not finished it: if it is overdue still, it expires."""

    variable: VariableId


@dataclass(frozen=True, slots=True)
class Done:
    """These outputs (by key) are set, by whom ever: forget them, and stop them where they still run.

    Also for what was only expected.
    """

    keys: tuple[str, ...]
    producer: str = ""
    """The worker that set them; empty when it was somebody else."""
    usage: Usage | None = None
    """What it cost, if the worker said so."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Assign what is ready to whoever has room. Told to itself, behind all that is in the mailbox already."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """A worker was heard of."""

    status: WorkerStatus


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker's lease has ended."""

    worker: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Generations (by key) come back from a worker unfinished, or never reached it."""

    worker: str
    keys: tuple[str, ...]
    reason: ParrotError
    has_started: bool = True
    """Whether the worker may have begun; then the attempt counts."""


# -- to the registry and the coordinator -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CheckLeases:
    """Find the workers that were not heard of for too long."""


@dataclass(frozen=True, slots=True)
class SettleModels:
    """The time in which workers could say what they serve is over."""


@dataclass(frozen=True, slots=True)
class DispatcherRestarted:
    """The dispatcher of a model failed and is there again."""

    model: str


@dataclass(frozen=True, slots=True)
class CallerRestarted:
    """The caller failed and is there again."""


@dataclass(frozen=True, slots=True)
class SessionIdle:
    """A session has no work; it may be dropped from memory."""

    key: SessionKey


def tell_self(context: ActorContext, message: object) -> None:
    """Put a message behind all that is in an actor's mailbox; if that is full, behind those who wait for room in it."""
    try:
        context.tell_self_nowait(message)
    except MailboxFull:
        context.run(context.ref.tell(message), name="tell_self")

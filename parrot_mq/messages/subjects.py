"""Every subject, stream and header name of the wire, built in one place.

The third token says what a message is, so permissions and streams are one wildcard each.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from parrot_mq.errors import InvalidName
from parrot_mq.types import SessionId, TaskId, TenantId, VariableId, check_name

__all__ = [
    "ALL_CONTROL",
    "ALL_REPLAYS",
    "ALL_TASKS",
    "COORDINATOR_STARTED",
    "CONTENT_JSON",
    "CONTENT_MSGPACK",
    "CONTENT_TEXT",
    "HEADER_BLOB",
    "HEADER_CHUNKS",
    "HEADER_CONTENT_TYPE",
    "HEADER_PRODUCER",
    "HEADER_SCHEMA",
    "HEADER_STATUS",
    "HEADER_USAGE",
    "LEASE_SUBJECT",
    "SCHEMA_VERSION",
    "STATUS_ERROR",
    "STATUS_RUNNING",
    "REGISTRY_ADDRESS",
    "STREAM_BLOBS",
    "STREAM_DEAD",
    "STREAM_LEASES",
    "STREAM_TASKS",
    "STREAM_VARS",
    "ControlAddress",
    "TaskAddress",
    "VariableAddress",
    "actor_subject",
    "blob_subject",
    "call_subject",
    "control_subject",
    "dead_subject",
    "event_subject",
    "is_inbox",
    "parse_control",
    "parse_replay",
    "parse_task",
    "parse_variable",
    "replay_subject",
    "session_subjects",
    "set_subject",
    "stream_subject",
    "task_subject",
    "variable_subject",
    "worker_address",
]

STREAM_VARS: Final = "PMQ_VARS"
STREAM_TASKS: Final = "PMQ_TASKS"
STREAM_BLOBS: Final = "PMQ_BLOBS"
STREAM_DEAD: Final = "PMQ_DEAD"
STREAM_LEASES: Final = "KV_pmq-leader"
"""A key-value bucket of NATS, `pmq-leader`, so that its tools show who leads."""

HEADER_CHUNKS: Final = "Pmq-Chunks"
HEADER_CONTENT_TYPE: Final = "Content-Type"
HEADER_STATUS: Final = "Pmq-Status"
HEADER_BLOB: Final = "Pmq-Blob"
HEADER_PRODUCER: Final = "Pmq-Producer"
HEADER_SCHEMA: Final = "Pmq-Schema"
HEADER_USAGE: Final = "Pmq-Usage"
STATUS_ERROR: Final = "error"
STATUS_RUNNING: Final = "running"
"""Of an answer to a call: it is still to come."""
SCHEMA_VERSION: Final = "1"
CONTENT_MSGPACK: Final = "application/msgpack"
CONTENT_JSON: Final = "application/json"
CONTENT_TEXT: Final = "text/plain"

ALL_CONTROL: Final = "pmq.*.control.>"
ALL_REPLAYS: Final = "pmq.*.replay.>"
ALL_TASKS: Final = "pmq.*.task.>"
REGISTRY_ADDRESS: Final = "coordinator/registry"
COORDINATOR_STARTED: Final = "pmq-sys.coordinator.started"
LEASE_SUBJECT: Final = "$KV.pmq-leader.coordinator"
"""The record of who leads."""


class VariableAddress(NamedTuple):
    """Where a semantic variable lives."""

    tenant: TenantId
    session: SessionId
    variable: VariableId


class TaskAddress(NamedTuple):
    """Where a task was submitted."""

    tenant: TenantId
    session: SessionId
    task: TaskId


class ControlAddress(NamedTuple):
    """Whom a control message is about, and which one it is: open, mark, explain, cancel, close."""

    tenant: TenantId
    session: SessionId
    verb: str


def variable_subject(tenant: str, session: str, variable: str) -> str:
    """Publishing here sets the variable, once."""
    return f"pmq.{check_name('tenant', tenant)}.var.{check_name('session', session)}.{check_name('variable', variable)}"


def set_subject(tenant: str, session: str, variable: str) -> str:
    """The stored value is republished here: what to subscribe to."""
    return f"pmq.{check_name('tenant', tenant)}.set.{check_name('session', session)}.{check_name('variable', variable)}"


def task_subject(tenant: str, session: str, task: str) -> str:
    """A task is submitted here."""
    return f"pmq.{check_name('tenant', tenant)}.task.{check_name('session', session)}.{check_name('task', task)}"


def control_subject(tenant: str, session: str, verb: str) -> str:
    """Requests to the coordinator about one session; `verb` is open, mark, explain, cancel or close."""
    return f"pmq.{check_name('tenant', tenant)}.control.{check_name('session', session)}.{check_name('verb', verb)}"


def stream_subject(tenant: str, session: str, variable: str) -> str:
    """Token deltas of a variable that is being generated; session and variable may be `*`."""
    session, variable = _any_or_name("session", session), _any_or_name("variable", variable)
    return f"pmq.{check_name('tenant', tenant)}.stream.{session}.{variable}"


def replay_subject(tenant: str, session: str, variable: str) -> str:
    """Asks the worker that generates a variable for the text so far."""
    return (
        f"pmq.{check_name('tenant', tenant)}.replay.{check_name('session', session)}.{check_name('variable', variable)}"
    )


def event_subject(tenant: str, session: str, kind: str) -> str:
    """What happened to the tasks of a session; session and kind may be `*`."""
    session, kind = _any_or_name("session", session), _any_or_name("kind", kind)
    return f"pmq.{check_name('tenant', tenant)}.event.{session}.{kind}"


def blob_subject(tenant: str, digest: str, chunk: int | str) -> str:
    """One chunk of a large value; `chunk` may be `*`."""
    return f"pmq.{check_name('tenant', tenant)}.blob.{check_name('blob', digest)}.{_any_or_name('chunk', str(chunk))}"


def call_subject(tenant: str, session: str, function: str) -> str:
    """A native function is called here; whoever serves it listens with `*` as the session, in a queue group."""
    session = _any_or_name("session", session)
    return f"pmq.{check_name('tenant', tenant)}.call.{session}.{check_name('function', function)}"


def dead_subject(tenant: str, task: str) -> str:
    """A task that was given up, with the reason and its record."""
    return f"pmq.{check_name('tenant', tenant)}.dead.{check_name('task', task)}"


def session_subjects(tenant: str, session: str, what: str) -> str:
    """All subjects of one kind (`var`, `task`, …) of one session, or of all when it is `*`."""
    return f"pmq.{check_name('tenant', tenant)}.{check_name('kind', what)}.{_any_or_name('session', session)}.>"


def actor_subject(node: str, name: str) -> str:
    """The mailbox of an actor in the process `node`; each name is one token."""
    return f"pmq-sys.actor.{check_name('node', node)}.{check_name('actor', name)}"


def worker_address(worker: str) -> str:
    """Address of the actor that takes a worker's assignments: `node/name`."""
    return f"{check_name('worker', worker)}/worker"


def is_inbox(reply: str) -> bool:
    """Whether an answer may go there. Whoever may ask can name any subject, also one where only we may write."""
    return bool(reply) and not reply.startswith(("pmq.", "pmq-sys.", "$"))


def parse_variable(subject: str) -> VariableAddress:
    """Read the address out of a `var` or `set` subject.

    Raises:
        InvalidName: It is no such subject (a plain client published it; the bus stores any subject).
    """
    tenant, session, variable = _parse(subject, "variable", ("var", "set"))
    return VariableAddress(TenantId(tenant), SessionId(session), VariableId(variable))


def parse_replay(subject: str) -> VariableAddress:
    """Read the address out of a `replay` subject; raises `InvalidName` as `parse_variable` does."""
    tenant, session, variable = _parse(subject, "variable", ("replay",))
    return VariableAddress(TenantId(tenant), SessionId(session), VariableId(variable))


def parse_task(subject: str) -> TaskAddress:
    """Read the address out of a `task` subject; raises `InvalidName` as `parse_variable` does."""
    tenant, session, task = _parse(subject, "task", ("task",))
    return TaskAddress(TenantId(tenant), SessionId(session), TaskId(task))


def parse_control(subject: str) -> ControlAddress:
    """Read the address out of a `control` subject; raises `InvalidName` as `parse_variable` does."""
    tenant, session, verb = _parse(subject, "verb", ("control",))
    return ControlAddress(TenantId(tenant), SessionId(session), verb)


def _any_or_name(kind: str, name: str) -> str:
    return name if name == "*" else check_name(kind, name)


def _parse(subject: str, last: str, kinds: tuple[str, ...]) -> tuple[str, str, str]:
    tokens = subject.split(".")
    if len(tokens) != 5 or tokens[0] != "pmq" or tokens[2] not in kinds:
        raise InvalidName(kind="subject", name=subject, rule=f"expected pmq.<tenant>.{kinds[0]}.<session>.<{last}>")
    _, tenant, _, session, name = tokens
    return check_name("tenant", tenant), check_name("session", session), check_name(last, name)

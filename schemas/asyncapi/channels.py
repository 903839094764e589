"""Channels: the rows of the subject table."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from parrot_mq.actors.packing import BLOB_TENANT
from parrot_mq.messages import (
    COORDINATOR_STARTED,
    LEASE_SUBJECT,
    REGISTRY_ADDRESS,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_VARS,
    actor_subject,
    blob_subject,
    call_subject,
    control_subject,
    dead_subject,
    event_subject,
    replay_subject,
    set_subject,
    stream_subject,
    task_subject,
    variable_subject,
    worker_address,
)

__all__ = ["CHANNELS", "PARAMETERS", "VALUE", "Channel"]

PARAMETERS = {
    "tenant": "Who it belongs to; `default` if nobody said otherwise.",
    "session": "A group of variables and tasks. A fresh name is a fresh session.",
    "variable": "A variable of the session.",
    "task": "The id of a task; a new one for each.",
    "function": "A native function.",
    "kind": "Which event it is, as `kind` in the message.",
    "digest": "SHA-256 of the whole value, in hexadecimal.",
    "chunk": "Number of the chunk, from 0.",
    "worker": "The worker's id.",
}


class Channel(NamedTuple):
    """A row of the subject table.

    Attributes:
        address: The subject; None: the inbox that a request names.
        summary: What it is, in a sentence.
        messages: What is found there.
        is_mqtt: Whether it is of use over MQTT, which has no headers and no answers.
    """

    address: str | None
    summary: str
    messages: tuple[str, ...]
    is_mqtt: bool = True


def _address(build: Callable[..., str], *names: str) -> str:
    """The subject that `build` makes, with `{name}` in each place."""
    tokens = build(*(f"_{name}_" for name in names)).split(".")
    places = {f"_{name}_": f"{{{name}}}" for name in names}
    return ".".join(places.get(token, token) for token in tokens)


def _control(verb: str) -> str:
    return _address(lambda tenant, session: control_subject(tenant, session, verb), "tenant", "session")


def _mailbox(address: str) -> str:
    return actor_subject(*address.split("/"))


def _stored(stream: str, address: str) -> str:
    """Where the server answers with what a stream has of one subject."""
    return f"$JS.API.DIRECT.GET.{stream}.{address}"


_VARIABLE = _address(variable_subject, "tenant", "session", "variable")
_BLOB = _address(blob_subject, "tenant", "digest", "chunk")
_DEAD = _address(dead_subject, "tenant", "task")
VALUE = ("text", "blob", "error")

CHANNELS = {
    "var": Channel(_VARIABLE, "Sets a variable, once.", VALUE),
    "set": Channel(
        _address(set_subject, "tenant", "session", "variable"),
        "The value of a variable, as soon as it is stored. What to subscribe to.",
        VALUE,
    ),
    "task": Channel(
        _address(task_subject, "tenant", "session", "task"), "Submits a task.", ("task.prompt", "task.native")
    ),
    "call": Channel(
        _address(call_subject, "tenant", "session", "function"),
        "Calls a native function, as a request. Whoever serves one listens for all sessions, in the queue group "
        "`native`.",
        ("native.call",),
        is_mqtt=False,
    ),
    "stream": Channel(
        _address(stream_subject, "tenant", "session", "variable"),
        "Pieces of a text that is being generated. A preview of the value on `set`.",
        ("token.delta",),
    ),
    "replay": Channel(
        _address(replay_subject, "tenant", "session", "variable"),
        "Asks the worker that generates a text for what there is of it so far. Without an inbox the answer goes to "
        "`stream`.",
        ("token.replay", "empty"),
    ),
    "control.open": Channel(_control("open"), "Announces a session.", ("session.open",)),
    "control.mark": Channel(_control("mark"), "Says what is wanted of variables.", ("session.mark",)),
    "control.explain": Channel(
        _control("explain"), "Asks what happened, and why.", ("session.explain",), is_mqtt=False
    ),
    "control.cancel": Channel(_control("cancel"), "Gives up tasks.", ("session.cancel",)),
    "control.close": Channel(_control("close"), "Ends a session and removes its values.", ("session.close",)),
    "event": Channel(
        _address(event_subject, "tenant", "session", "kind"), "What happens, for people and tools.", ("task.event",)
    ),
    "blob": Channel(_BLOB, "A chunk of a large value.", ("chunk",), is_mqtt=False),
    "dead": Channel(
        _DEAD,
        "A task that cannot be run, or an event that a pipeline gave up, and why.",
        ("task.dead", "pipeline.dead"),
    ),
    "stored.var": Channel(
        _stored(STREAM_VARS, _VARIABLE), "Reads the stored value of a variable.", ("empty",), is_mqtt=False
    ),
    "stored.blob": Channel(
        _stored(STREAM_BLOBS, _BLOB), "Reads a stored chunk of a large value.", ("empty",), is_mqtt=False
    ),
    "stored.dead": Channel(
        _stored(STREAM_DEAD, _DEAD), "Reads the last record of what was given up.", ("empty",), is_mqtt=False
    ),
    "answers": Channel(
        None,
        "The inbox that a request names as where the answer goes.",
        (
            *("stored", "missing", "text", "blob", "error", "chunk", "empty"),
            *("token.delta", "native.running", "session.reply", "session.story"),
            *("task.dead", "pipeline.dead", "service.report", "worker.assigned"),
        ),
        is_mqtt=False,
    ),
    "registry": Channel(
        _mailbox(REGISTRY_ADDRESS),
        "What workers, autoscalers and tools say to the coordinator, as msgpack; one larger than the server takes goes "
        f"as a claim check of the tenant `{BLOB_TENANT}`.",
        ("worker.status", "worker.returned", "autoscaler.status", "service.query", "blob"),
        is_mqtt=False,
    ),
    "worker": Channel(
        _address(lambda worker: _mailbox(worker_address(worker)), "worker"),
        "What a worker is told, as msgpack; one larger than the server takes goes as a claim check of the tenant "
        f"`{BLOB_TENANT}`.",
        ("worker.assign", "worker.cancel", "worker.pin", "worker.prefill", "worker.standby", "blob"),
        is_mqtt=False,
    ),
    "started": Channel(COORDINATOR_STARTED, "A coordinator is up: say who you are.", ("coordinator.started",)),
    "lease": Channel(
        LEASE_SUBJECT, "Who leads: a key of the bucket `pmq-leader`.", ("coordinator.lease",), is_mqtt=False
    ),
}

"""The whole bus as an AsyncAPI 3 document: subjects, who sends what there, and what comes back.

Addresses are built by `messages/subjects.py`, messages are the JSON Schemas beside this file, streams are those that
the bus creates; only who sends and who receives is said here. `generate.py` writes the document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from parrot_mq.actors.packing import BLOB_TENANT
from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.messages import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    CONTENT_TEXT,
    COORDINATOR_STARTED,
    HEADER_BLOB,
    HEADER_CHUNKS,
    HEADER_CONTENT_TYPE,
    HEADER_PRODUCER,
    HEADER_SCHEMA,
    HEADER_STATUS,
    HEADER_USAGE,
    REGISTRY_ADDRESS,
    SCHEMA_VERSION,
    STATUS_ERROR,
    STREAM_BLOBS,
    STREAM_DEAD,
    STREAM_VARS,
    actor_subject,
    blob_subject,
    control_subject,
    dead_subject,
    event_subject,
    set_subject,
    stream_subject,
    task_subject,
    variable_subject,
    worker_address,
)
from parrot_mq.messages.subjects import LEASE_SUBJECT
from parrot_mq.types import NAME_RULE

__all__ = ["document"]

Json = dict[str, Any]

ROLES = {
    "program": "Sets variables, submits tasks, waits for texts: a program of yours, in any language.",
    "coordinator": "Finds out what is ready, and which worker does it.",
    "worker": "Runs a model.",
    "tool": "Shows people what happens, and why.",
    "autoscaler": "Starts and stops workers.",
    "server": "The NATS server itself.",
}


# -- messages --------------------------------------------------------------------------------------------------------


def _header(description: str, **schema: Any) -> Json:
    return {"type": "string", "description": description, **schema}


_ENCODED = {
    HEADER_CONTENT_TYPE: _header(
        "How it is encoded; without it a message that begins with `{` is JSON.", enum=[CONTENT_JSON, CONTENT_MSGPACK]
    ),
    HEADER_SCHEMA: _header("Version of the messages.", const=SCHEMA_VERSION),
}
_PRODUCER = {HEADER_PRODUCER: _header("The worker that wrote it.")}
_USAGE = {HEADER_USAGE: _header("What it cost, as JSON.", contentMediaType=CONTENT_JSON)}

HEADERS: dict[str, tuple[Json, tuple[str, ...]]] = {
    "text": ({HEADER_CONTENT_TYPE: _header("May be left out.", const=CONTENT_TEXT)} | _PRODUCER | _USAGE, ()),
    "error": (_ENCODED | {HEADER_STATUS: _header("Says that it is an error.", const=STATUS_ERROR)}, (HEADER_STATUS,)),
    "blob": (
        _ENCODED | {HEADER_BLOB: _header("The digest; says that it is a claim check.")} | _PRODUCER | _USAGE,
        (HEADER_BLOB,),
    ),
    "chunk": ({HEADER_CHUNKS: _header("How many chunks the large value has.", pattern="^[0-9]+$")}, (HEADER_CHUNKS,)),
}
"""Headers of messages, and which of them are needed; other messages have those of `_ENCODED`."""

_PLAIN: dict[str, Json] = {
    "text": {
        "title": "Text",
        "contentType": CONTENT_TEXT,
        "summary": "The value of a variable: UTF-8, with nothing around it.",
        "payload": {"type": "string"},
        "examples": [{"payload": "parrots"}],
    },
    "chunk": {
        "title": "Chunk",
        "contentType": "application/octet-stream",
        "summary": "Bytes of a large value.",
        "payload": {"type": "string", "format": "binary"},
    },
    "empty": {"title": "Empty", "contentType": CONTENT_TEXT, "summary": "No payload.", "payload": {"maxLength": 0}},
    "stored": {
        "title": "Stored",
        "contentType": CONTENT_JSON,
        "summary": "The server's answer to what it was to store.",
        "payload": {
            "type": "object",
            "properties": {
                "stream": {"type": "string", "description": "Where it is stored."},
                "seq": {"type": "integer", "description": "Its place there."},
                "error": {
                    "type": "object",
                    "description": "It is not stored.",
                    "properties": {
                        "code": {"type": "integer"},
                        "err_code": {"type": "integer", "description": "10077: something stands on the subject."},
                        "description": {"type": "string"},
                    },
                },
            },
        },
        "examples": [
            {"name": "stored", "payload": {"stream": STREAM_VARS, "seq": 1}},
            {
                "name": "refused",
                "payload": {
                    "error": {"code": 503, "err_code": 10077, "description": "maximum messages per subject exceeded"},
                    "stream": STREAM_VARS,
                    "seq": 0,
                },
            },
        ],
    },
    "missing": {
        "title": "Missing",
        "contentType": CONTENT_TEXT,
        "summary": "Nothing stands there: status 404 in the first line of the headers, and no payload.",
        "payload": {"maxLength": 0},
    },
}
"""Messages that are no structs of ours."""


# -- channels and operations -----------------------------------------------------------------------------------------


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


class Operation(NamedTuple):
    """What somebody does on a channel.

    Attributes:
        role: Who.
        name: The operation's name, unique for its role.
        action: `send` or `receive`.
        channel: Where.
        summary: What for, in a sentence.
        messages: Which of the channel's messages; empty means all.
        replies: What comes back, if it is a request.
    """

    role: str
    name: str
    action: str
    channel: str
    summary: str
    messages: tuple[str, ...] = ()
    replies: tuple[str, ...] = ()


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
_VALUE = ("text", "blob", "error")
_DONE = ("session.reply", "error")

CHANNELS = {
    "var": Channel(_VARIABLE, "Sets a variable, once.", _VALUE),
    "set": Channel(
        _address(set_subject, "tenant", "session", "variable"),
        "The value of a variable, as soon as it is stored. What to subscribe to.",
        _VALUE,
    ),
    "task": Channel(_address(task_subject, "tenant", "session", "task"), "Submits a task.", ("task.prompt",)),
    "stream": Channel(
        _address(stream_subject, "tenant", "session", "variable"),
        "Pieces of a text that is being generated. A preview of the value on `set`.",
        ("token.delta",),
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
    "dead": Channel(_DEAD, "A task that cannot be run, and why.", ("task.dead",)),
    "stored.var": Channel(
        _stored(STREAM_VARS, _VARIABLE), "Reads the stored value of a variable.", ("empty",), is_mqtt=False
    ),
    "stored.blob": Channel(
        _stored(STREAM_BLOBS, _BLOB), "Reads a stored chunk of a large value.", ("empty",), is_mqtt=False
    ),
    "stored.dead": Channel(
        _stored(STREAM_DEAD, _DEAD), "Reads the last record of a dead task.", ("empty",), is_mqtt=False
    ),
    "answers": Channel(
        None,
        "The inbox that a request names as where the answer goes.",
        (
            *("stored", "missing", "text", "blob", "error", "chunk", "empty"),
            *("session.reply", "session.story", "task.dead", "service.report", "worker.assigned"),
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

OPERATIONS = (
    Operation("program", "setVariable", "send", "var", "Sets a variable, once.", replies=("stored",)),
    Operation("program", "hearVariable", "receive", "set", "Hears of values as soon as they are stored."),
    Operation(
        *("program", "readVariable", "send", "stored.var", "Reads a value, after subscribing and after a reconnect."),
        replies=(*_VALUE, "missing"),
    ),
    Operation("program", "submitTask", "send", "task", "Submits a task.", replies=("stored",)),
    Operation("program", "followText", "receive", "stream", "Sees a text while it is generated."),
    Operation("program", "openSession", "send", "control.open", "Announces a session.", replies=_DONE),
    Operation("program", "markVariables", "send", "control.mark", "Says what it wants.", replies=_DONE),
    Operation("program", "cancelTasks", "send", "control.cancel", "Gives up tasks.", replies=_DONE),
    Operation("program", "closeSession", "send", "control.close", "Ends a session.", replies=_DONE),
    Operation("program", "storeChunk", "send", "blob", "Stores a part of a large value.", replies=("stored",)),
    Operation(
        "program", "readChunk", "send", "stored.blob", "Reads a part of a large value.", replies=("chunk", "missing")
    ),
    Operation("tool", "watchEvents", "receive", "event", "Shows what happens."),
    Operation("tool", "watchValues", "receive", "set", "Shows what is stored."),
    Operation("tool", "watchText", "receive", "stream", "Shows texts while they are generated."),
    Operation(
        *("tool", "explainSession", "send", "control.explain", "Asks what happened, and why."),
        replies=("session.story", "error"),
    ),
    Operation("tool", "watchDead", "receive", "dead", "Hears of tasks that cannot be run."),
    Operation("tool", "readDead", "send", "stored.dead", "Reads why one cannot.", replies=("task.dead", "missing")),
    Operation(
        *("tool", "askWhoIsThere", "send", "registry", "Asks who is there, and what there is to do."),
        messages=("service.query",),
        replies=("service.report", "blob", "error"),
    ),
    Operation("coordinator", "readVariables", "receive", "var", "Follows what is set, through the stream."),
    Operation("coordinator", "failOutputs", "send", "var", "Says what went wrong with a task.", messages=("error",)),
    Operation("coordinator", "readTasks", "receive", "task", "Takes tasks up, through the stream."),
    Operation("coordinator", "beOpened", "receive", "control.open", "Begins a session.", replies=_DONE),
    Operation("coordinator", "beMarked", "receive", "control.mark", "Learns what is wanted.", replies=_DONE),
    Operation("coordinator", "beCancelled", "receive", "control.cancel", "Gives up tasks.", replies=_DONE),
    Operation("coordinator", "beClosed", "receive", "control.close", "Ends a session.", replies=_DONE),
    Operation(
        *("coordinator", "explain", "receive", "control.explain", "Tells what it remembers."),
        replies=("session.story", "error"),
    ),
    Operation("coordinator", "tellEvents", "send", "event", "Tells what happens."),
    Operation("coordinator", "buryTask", "send", "dead", "Keeps the record of a task that cannot be run."),
    Operation("coordinator", "readChunk", "send", "stored.blob", "Reads long prompts.", replies=("chunk", "missing")),
    Operation(
        *("coordinator", "beTold", "receive", "registry", "Learns who is there, and how far they are."),
        replies=("service.report", "empty", "blob", "error"),
    ),
    Operation(
        *("coordinator", "assign", "send", "worker", "Sends a batch of work."),
        messages=("worker.assign", "blob"),
        replies=("worker.assigned", "error"),
    ),
    Operation(
        *("coordinator", "advise", "send", "worker", "Takes work back, and says what to keep and to prepare."),
        messages=("worker.cancel", "worker.pin", "worker.prefill", "blob"),
    ),
    Operation("coordinator", "announce", "send", "started", "Says that it is up."),
    Operation("coordinator", "lead", "send", "lease", "Writes its lease anew, or takes it over.", replies=("stored",)),
    Operation("worker", "work", "receive", "worker", "Takes work and advice.", replies=("worker.assigned", "error")),
    Operation("worker", "streamText", "send", "stream", "Tells a text while it is generated."),
    Operation("worker", "setOutput", "send", "var", "Sets a task's output, once.", replies=("stored",)),
    Operation("worker", "storeChunk", "send", "blob", "Stores a part of a long output.", replies=("stored",)),
    Operation("worker", "readChunk", "send", "stored.blob", "Reads long prompts.", replies=("chunk", "missing")),
    Operation(
        *("worker", "report", "send", "registry", "Says who it is and how far it is; gives work back."),
        messages=("worker.status", "worker.returned", "blob"),
    ),
    Operation("worker", "hearCoordinator", "receive", "started", "Says at once who it is."),
    Operation(
        *("autoscaler", "report", "send", "registry", "Says what it does, and asks what there is to do."),
        messages=("autoscaler.status", "service.query", "blob"),
        replies=("service.report", "empty", "blob", "error"),
    ),
    Operation(
        *("autoscaler", "standDown", "send", "worker", "Asks a worker that it wants to stop to take nothing new."),
        messages=("worker.standby",),
    ),
    Operation("autoscaler", "hearCoordinator", "receive", "started", "Says at once who it is."),
    Operation("server", "tellValue", "send", "set", "Publishes what it has stored, and nothing that it refused."),
)

PARAMETERS = {
    "tenant": "Who it belongs to; `default` if nobody said otherwise.",
    "session": "A group of variables and tasks. A fresh name is a fresh session.",
    "variable": "A variable of the session.",
    "task": "The id of a task; a new one for each.",
    "kind": "Which event it is, as `kind` in the message.",
    "digest": "SHA-256 of the whole value, in hexadecimal.",
    "chunk": "Number of the chunk, from 0.",
    "worker": "The worker's id.",
}


# -- the document ----------------------------------------------------------------------------------------------------


def document(schemas: Mapping[str, Json], examples: Mapping[str, Any]) -> Json:
    """The AsyncAPI document.

    Args:
        schemas: The JSON Schema of each message, by tag.
        examples: One payload of each message, by tag.
    """
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:parrot-mq:{SCHEMA_VERSION}",
        "info": {
            "title": "parrot-mq",
            "version": SCHEMA_VERSION,
            "description": _DESCRIPTION,
            "tags": [{"name": role, "description": words} for role, words in ROLES.items()],
        },
        "defaultContentType": CONTENT_JSON,
        "servers": _SERVERS,
        "channels": {name: _channel(name, channel) for name, channel in CHANNELS.items()},
        "operations": {f"{each.role}.{each.name}": _operation(each) for each in OPERATIONS},
        "components": {
            "messages": dict(_messages(schemas, examples)),
            "parameters": {
                name: {"description": f"{words} One token: {NAME_RULE}."} for name, words in PARAMETERS.items()
            },
        },
    }


_DESCRIPTION = (
    "Every subject of the bus, for programs in any language. README.md beside this file teaches it with examples; "
    "operations are named after who does them. Structured messages are JSON or msgpack, as `Content-Type` says."
)

_SERVERS = {
    "nats": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "Any NATS client: all of this document."},
    "websocket": {
        "host": "127.0.0.1:8080",
        "protocol": "ws",
        "description": "The server's WebSocket gateway: a NATS client in a browser. All of this document.",
    },
    "mqtt": {
        "host": "127.0.0.1:1883",
        "protocol": "mqtt",
        "protocolVersion": "3.1.1",
        "description": "The server's MQTT gateway; `.` becomes `/`. README.md says what it cannot do.",
    },
}


def _messages(schemas: Mapping[str, Json], examples: Mapping[str, Any]) -> Iterator[tuple[str, Json]]:
    """Those that are found on a channel."""
    for name in dict.fromkeys(name for channel in CHANNELS.values() for name in channel.messages):
        properties, required = HEADERS.get(name, ({}, ()) if name in _PLAIN else (_ENCODED, ()))
        headers = {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}
        message = _PLAIN.get(name) or _structured(name, schemas[name], examples.get(name))
        yield name, {"name": name, **message, **({"headers": headers} if properties else {})}


def _structured(tag: str, schema: Json, example: Any) -> Json:
    summary = str(schema["description"]).partition("\n\n")[0]
    described = {"title": schema["title"], "contentType": _content_type(tag), "summary": " ".join(summary.split())}
    shown = {} if example is None else {"examples": [{"payload": example}]}
    return described | {"payload": {"$ref": f"json/{tag}.json"}} | shown


def _content_type(tag: str) -> str:
    """msgpack is what goes between processes of this project alone: they read JSON, too."""
    is_packed = tag.startswith(("worker.", "autoscaler.", "service.")) or tag == "coordinator.started"
    return CONTENT_MSGPACK if is_packed else CONTENT_JSON


def _channel(name: str, channel: Channel) -> Json:
    messages = {each: {"$ref": f"#/components/messages/{each}"} for each in channel.messages}
    described: Json = {"address": channel.address, "title": name, "summary": channel.summary}
    if (stream := _stream_of(channel.address)) is not None:
        described["description"] = f"Kept in the stream `{stream}`."
    if not channel.is_mqtt:
        described["servers"] = [{"$ref": f"#/servers/{each}"} for each in _SERVERS if each != "mqtt"]
    names = [token[1:-1] for token in (channel.address or "").split(".") if token.startswith("{")]
    if names:
        described["parameters"] = {each: {"$ref": f"#/components/parameters/{each}"} for each in names}
    return {**described, "messages": messages}


def _stream_of(address: str | None) -> str | None:
    """The stream that keeps what is published on a subject."""
    tokens = (address or "").split(".")
    for stream, subject in SUBJECTS.items():
        fixed = subject.split(".")[:-1]
        if len(tokens) > len(fixed) and all(a in ("*", b) for a, b in zip(fixed, tokens, strict=False)):
            return stream
    return None


def _operation(operation: Operation) -> Json:
    messages = operation.messages or CHANNELS[operation.channel].messages
    described: Json = {
        "action": operation.action,
        "channel": {"$ref": f"#/channels/{operation.channel}"},
        "title": f"{operation.role}: {operation.name}",
        "summary": operation.summary,
        "tags": [{"name": operation.role}],
        "messages": _of_channel(operation.channel, messages),
    }
    if operation.replies:
        reply = {"channel": {"$ref": "#/channels/answers"}, "messages": _of_channel("answers", operation.replies)}
        described["reply"] = reply
    return described


def _of_channel(channel: str, messages: tuple[str, ...]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel}/messages/{each}"} for each in messages]

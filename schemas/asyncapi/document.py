"""The document, from channels, operations and messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from parrot_mq.bus.streams import SUBJECTS
from parrot_mq.messages import CONTENT_JSON, SCHEMA_VERSION
from parrot_mq.types import NAME_RULE
from schemas.asyncapi.channels import CHANNELS, PARAMETERS, Channel
from schemas.asyncapi.messages import ENCODED, HEADERS, PLAIN, Json, content_type
from schemas.asyncapi.operations import OPERATIONS, ROLES, Operation

__all__ = ["document"]


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
        properties, required = HEADERS.get(name, ({}, ()) if name in PLAIN else (ENCODED, ()))
        headers = {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}
        message = PLAIN.get(name) or _structured(name, schemas[name], examples.get(name))
        yield name, {"name": name, **message, **({"headers": headers} if properties else {})}


def _structured(tag: str, schema: Json, example: Any) -> Json:
    summary = str(schema["description"]).partition("\n\n")[0]
    described = {
        "title": schema["title"],
        "contentType": content_type(tag),
        "summary": " ".join(summary.replace("`", "").split()),
    }
    shown = {} if example is None else {"examples": [{"payload": example}]}
    return described | {"payload": {"$ref": f"json/{tag}.json"}} | shown


def _channel(name: str, channel: Channel) -> Json:
    messages = {each: {"$ref": f"#/components/messages/{each}"} for each in channel.messages}
    stream = _stream_of(channel.address)
    kept = f" Kept in the stream `{stream}`." if stream is not None else ""
    described: Json = {"address": channel.address, "title": name, "description": channel.summary + kept}
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
    if operation.queue:
        described["bindings"] = {"nats": {"queue": operation.queue}}
    if operation.replies:
        reply = {"channel": {"$ref": "#/channels/answers"}, "messages": _of_channel("answers", operation.replies)}
        described["reply"] = reply
    return described


def _of_channel(channel: str, messages: tuple[str, ...]) -> list[Json]:
    return [{"$ref": f"#/channels/{channel}/messages/{each}"} for each in messages]

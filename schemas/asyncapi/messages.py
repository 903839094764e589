"""What is found on channels beside the JSON Schemas: headers, and messages that are no structs of ours."""

from __future__ import annotations

from typing import Any

from parrot_mq.messages import (
    CONTENT_JSON,
    CONTENT_MSGPACK,
    CONTENT_TEXT,
    HEADER_BLOB,
    HEADER_CHUNKS,
    HEADER_CONTENT_TYPE,
    HEADER_PRODUCER,
    HEADER_SCHEMA,
    HEADER_STATUS,
    HEADER_USAGE,
    SCHEMA_VERSION,
    STATUS_ERROR,
    STATUS_RUNNING,
    STREAM_VARS,
)
from parrot_mq.observability.tracing import TRACEPARENT, TRACESTATE

__all__ = ["ENCODED", "HEADERS", "PLAIN", "Json", "content_type"]

Json = dict[str, Any]


def content_type(tag: str) -> str:
    """msgpack is what goes between processes of this project alone: they read JSON, too."""
    is_packed = tag.startswith(("worker.", "autoscaler.", "service.")) or tag == "coordinator.started"
    return CONTENT_MSGPACK if is_packed else CONTENT_JSON


def _header(description: str, **schema: Any) -> Json:
    return {"type": "string", "description": description, **schema}


ENCODED = {
    HEADER_CONTENT_TYPE: _header(
        "How it is encoded; without it a message that begins with `{` is JSON.", enum=[CONTENT_JSON, CONTENT_MSGPACK]
    ),
    HEADER_SCHEMA: _header("Version of the messages.", const=SCHEMA_VERSION),
}
_TRACE = {
    TRACEPARENT: _header(
        "Where it belongs in a trace, as W3C Trace Context says.",
        examples=["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    ),
    TRACESTATE: _header("What vendors pass on with the trace.", examples=["congo=t61rcWkgMzE"]),
}
_PRODUCER = {HEADER_PRODUCER: _header("Who wrote it: a worker, or a host of native functions.", examples=["worker-0"])}
_USAGE = {
    HEADER_USAGE: _header(
        "What it cost, as JSON.",
        contentMediaType=CONTENT_JSON,
        examples=['{"num_prompt_tokens":120,"num_shared_tokens":100,"num_output_tokens":12}'],
    )
}
_DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

HEADERS: dict[str, tuple[Json, tuple[str, ...]]] = {
    "text": ({HEADER_CONTENT_TYPE: _header("May be left out.", const=CONTENT_TEXT)} | _PRODUCER | _USAGE | _TRACE, ()),
    "error": (
        ENCODED | {HEADER_STATUS: _header("Says that it is an error.", const=STATUS_ERROR)} | _TRACE,
        (HEADER_STATUS,),
    ),
    "blob": (
        ENCODED
        | {HEADER_BLOB: _header("The digest; says that it is a claim check.", examples=[_DIGEST])}
        | _PRODUCER
        | _USAGE
        | _TRACE,
        (HEADER_BLOB,),
    ),
    "native.running": (
        ENCODED | {HEADER_STATUS: _header("Says that the answer is still to come.", const=STATUS_RUNNING)},
        (HEADER_STATUS,),
    ),
    **dict.fromkeys(("task.prompt", "task.native", "native.call", "token.delta"), (ENCODED | _TRACE, ())),
    "chunk": (
        {HEADER_CHUNKS: _header("How many chunks the large value has.", pattern="^[0-9]+$", examples=["3"])},
        (HEADER_CHUNKS,),
    ),
}
"""Headers of messages, and which of them are needed; other messages have those of `ENCODED`."""

PLAIN: dict[str, Json] = {
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

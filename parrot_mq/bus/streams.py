"""The streams: their settings, and how they come to be."""

from __future__ import annotations

import re
from typing import Any

from parrot_mq.bus.config import BusConfig
from parrot_mq.bus.jetstream import STREAM_EXISTS, STREAM_OVERLAP, JetStream, StreamInfo
from parrot_mq.errors import PublishRejected, ServerTooOld, StreamMismatch
from parrot_mq.messages.subjects import STREAM_BLOBS, STREAM_DEAD, STREAM_LEASES, STREAM_TASKS, STREAM_VARS

__all__ = ["MIN_SERVER_VERSION", "SUBJECTS", "WRITE_ONCE", "check_version", "ensure_streams", "stream_configs"]

MIN_SERVER_VERSION = (2, 12)

SUBJECTS = {
    STREAM_VARS: "pmq.*.var.>",
    STREAM_TASKS: "pmq.*.task.>",
    STREAM_BLOBS: "pmq.*.blob.>",
    STREAM_DEAD: "pmq.*.dead.>",
    STREAM_LEASES: "$KV.pmq-leader.>",
}
"""What each stream keeps."""

WRITE_ONCE: dict[str, Any] = {"max_msgs_per_subject": 1, "discard": "new", "discard_new_per_subject": True}
"""The first message of a subject wins, also against a publish that knows nothing of streams."""

_KEY_VALUE: dict[str, Any] = {
    "max_msgs_per_subject": 1,
    "discard": "new",
    "allow_direct": True,
    "allow_rollup_hdrs": True,
    "deny_delete": True,
}
"""What makes a stream a key-value bucket. Source: ADR-8 of NATS."""

_REPUBLISH = {"src": "pmq.*.var.>", "dest": "pmq.{{wildcard(1)}}.set.>"}
_MAX_BLOB_MESSAGE = 512 * 1024


def stream_configs(config: BusConfig) -> list[dict[str, Any]]:
    """The settings of all streams, as the server's API takes them."""
    max_age_ns, dead_max_age_ns = int(config.max_age_s * 1e9), int(config.dead_max_age_s * 1e9)
    extras: dict[str, dict[str, Any]] = {
        STREAM_VARS: {**WRITE_ONCE, "allow_direct": True, "max_age": max_age_ns, "republish": _REPUBLISH},
        STREAM_TASKS: {**WRITE_ONCE, "allow_direct": True, "retention": "workqueue"},
        STREAM_BLOBS: {
            **WRITE_ONCE,
            "allow_direct": True,
            "max_age": 2 * max_age_ns,
            "max_msg_size": _MAX_BLOB_MESSAGE,
        },
        STREAM_DEAD: {"max_age": dead_max_age_ns, "allow_direct": True},
        STREAM_LEASES: _KEY_VALUE,
    }
    common = {"storage": config.storage, "num_replicas": config.replicas, "retention": "limits"}
    return [{"name": name, "subjects": [subject], **common, **extras[name]} for name, subject in SUBJECTS.items()]


def check_version(found: str) -> None:
    """Raise `ServerTooOld` if the server is older than `MIN_SERVER_VERSION`."""
    parts = re.match(r"(\d+)\.(\d+)", found)
    if parts is None or (int(parts[1]), int(parts[2])) < MIN_SERVER_VERSION:
        raise ServerTooOld(found=found, needed=".".join(map(str, MIN_SERVER_VERSION)))


async def ensure_streams(jetstream: JetStream, config: BusConfig) -> None:
    """Create each stream, or update it; see `Bus.ensure_streams`."""
    await jetstream.check_available()
    for settings in stream_configs(config):
        await _ensure(jetstream, settings)


async def _ensure(jetstream: JetStream, settings: dict[str, Any]) -> None:
    name = settings["name"]
    try:
        try:
            await jetstream.call(f"STREAM.CREATE.{name}", StreamInfo, settings)
        except PublishRejected as error:
            if error.err_code != STREAM_EXISTS:
                raise
            await jetstream.call(f"STREAM.UPDATE.{name}", StreamInfo, settings)
    except PublishRejected as error:
        description = str(error.facts.get("description", error.message))
        if error.err_code == STREAM_OVERLAP:
            description = f"another stream takes {settings['subjects'][0]} already"
        raise StreamMismatch(stream=name, reason=description) from error

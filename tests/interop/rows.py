"""What the rows of the conformance suite have in common: which clients, which encodings, tasks, large values."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from parrot_mq.bus import fetch_text, get_values
from parrot_mq.client import Client
from parrot_mq.messages import VariableAddress, blob_subject
from parrot_mq.types import SessionId, TenantId, VariableId
from tests.interop.agent import Agent

__all__ = [
    "TAKEN",
    "TENANT",
    "address_of",
    "all_clients",
    "both_encodings",
    "nats_clients",
    "prompt",
    "read_text",
    "store_large",
    "stored_at",
]

TENANT = "default"
TAKEN = 10077
"""What the server says of a subject where something stands."""
CHUNK_BYTES = 128 * 1024

nats_clients = pytest.mark.parametrize("kind", ["tcp", "websocket"])
all_clients = pytest.mark.parametrize("kind", ["tcp", "websocket", "mqtt"])
both_encodings = pytest.mark.parametrize("encoding", ["json", "msgpack"])


def address_of(session: str, variable: str) -> VariableAddress:
    """Where a variable of these tests lives."""
    return VariableAddress(TenantId(TENANT), SessionId(session), VariableId(variable))


async def read_text(client: Client, session: str, variable: str) -> str:
    """The value of a variable that is set, as the Python client reads it."""
    address = address_of(session, variable)
    return await fetch_text(client.bus, TENANT, (await get_values(client.bus, [address]))[address])


def prompt(template: str, *, reads: Sequence[str] = (), writes: str = "reply", **fields: Any) -> dict[str, Any]:
    """A prompt task whose placeholders have the names of the variables."""
    return {
        "type": "task.prompt",
        "template": template,
        "inputs": {name: {"variable": name} for name in reads},
        "outputs": {writes: {"variable": writes}},
        **fields,
    }


def stored_at(stream: str, subject: str) -> str:
    """Where to ask for what a stream has of a subject."""
    return f"$JS.API.DIRECT.GET.{stream}.{subject}"


async def store_large(agent: Agent, text: str, *, tenant: str = TENANT) -> dict[str, Any]:
    """Let a client store a large text in chunks; gives the claim check."""
    whole = text.encode()
    digest = hashlib.sha256(whole).hexdigest()
    chunks = [whole[begin : begin + CHUNK_BYTES] for begin in range(0, len(whole), CHUNK_BYTES)]
    for index, chunk in reversed(list(enumerate(chunks))):
        subject, headers = blob_subject(tenant, digest, index), {"Pmq-Chunks": str(len(chunks))}
        stored = await agent.request(subject, headers, base64=base64.b64encode(chunk).decode())
        assert "error" not in stored.json
    return {"type": "blob", "digest": digest, "size_bytes": len(whole)}

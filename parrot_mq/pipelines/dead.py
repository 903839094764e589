"""Events that were given up, with the reason: kept for people, and for a replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from parrot_mq.bus import Bus, Delivery, Headers
from parrot_mq.errors import CodecError, PayloadTooLarge, SubjectTaken
from parrot_mq.messages import (
    CONTENT_JSON,
    HEADER_CONTENT_TYPE,
    STREAM_DEAD,
    DeadEvent,
    dead_subject,
    decode,
    encode_json,
)
from parrot_mq.pipelines.repeatable import session_name

__all__ = ["bury_event", "dead_events", "delivery_of", "forget_event"]


def delivery_of(dead: DeadEvent) -> Delivery:
    """The event as it came."""
    return Delivery(dead.subject, dead.payload, Headers(dead.headers), sequence=dead.sequence)


def _grave(tenant: str, dead: DeadEvent) -> str:
    """The subject that it is stored on."""
    return dead_subject(tenant, session_name(dead.pipeline, dead.event_id))


async def bury_event(bus: Bus, tenant: str, dead: DeadEvent) -> None:
    """Store an event that is given up. The first reason stays.

    Raises:
        TransportError: It could not be stored.
    """
    try:
        await _store(bus, tenant, dead)
    except PayloadTooLarge:
        await _store(bus, tenant, msgspec.structs.replace(dead, payload=b"", headers={}, is_cut=True))


async def _store(bus: Bus, tenant: str, dead: DeadEvent) -> None:
    with suppress(SubjectTaken):
        headers = {HEADER_CONTENT_TYPE: CONTENT_JSON}
        await bus.publish_once(_grave(tenant, dead), encode_json(dead), headers=headers)


async def forget_event(bus: Bus, tenant: str, dead: DeadEvent) -> None:
    """Remove the record of an event that was given up."""
    await bus.purge(STREAM_DEAD, _grave(tenant, dead))


async def dead_events(bus: Bus, tenant: str, pipeline: str) -> AsyncIterator[DeadEvent]:
    """The events of a pipeline that are given up now, in the order in which they were.

    Raises:
        TransportError: They cannot be read.
    """
    end = await bus.last_sequence(STREAM_DEAD)
    newest = await bus.newest(STREAM_DEAD, dead_subject(tenant, "x").rpartition(".")[0] + ".>")
    end = min(end, newest.sequence) if newest is not None else 0
    found: asyncio.Queue[Delivery] = asyncio.Queue()
    subscription = await bus.follow(STREAM_DEAD, found.put, after_sequence=0)
    try:
        while end:
            delivery = await found.get()
            dead = _read(delivery, tenant, pipeline)
            if dead is not None:
                yield dead
            if delivery.sequence >= end:
                return
    finally:
        await subscription.aclose()


def _read(delivery: Delivery, tenant: str, pipeline: str) -> DeadEvent | None:
    """The record, if it is one of this pipeline; others' records are kept in the same stream."""
    if not delivery.subject.startswith(dead_subject(tenant, pipeline) + "-"):
        return None
    try:
        dead = decode(delivery.payload, DeadEvent, delivery.headers)
    except CodecError:
        return None
    return dead if dead.pipeline == pipeline else None

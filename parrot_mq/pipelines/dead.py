"""Events that were given up, with the reason: kept for people, and for a replay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from parrot_mq.bus import Bus, Delivery, Headers
from parrot_mq.errors import PayloadTooLarge, SubjectTaken
from parrot_mq.messages import CONTENT_JSON, HEADER_CONTENT_TYPE, STREAM_DEAD, ErrorInfo, dead_subject
from parrot_mq.pipelines.repeatable import session_name

__all__ = ["DeadEvent", "bury_event", "dead_events", "forget_event"]


class DeadEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="pipeline.dead"):
    """One event that was given up; stored as JSON on `pmq.<tenant>.dead.<pipeline>-<digest of the event's id>`.

    Attributes:
        pipeline: Whose event.
        event_id: What tells it apart from others.
        reason: Why it was given up.
        subject: Where it came from.
        payload: What it said; base64 on the wire.
        headers: Its headers.
        sequence: Its place in its stream; 0 if it came from none.
        is_cut: It was too large to be kept, so `payload` is missing; it cannot be worked on once more.
    """

    pipeline: str
    event_id: str
    reason: ErrorInfo
    subject: str
    payload: bytes = b""
    headers: dict[str, str] = {}
    sequence: int = 0
    is_cut: bool = False

    def delivery(self) -> Delivery:
        """The event as it came."""
        return Delivery(self.subject, self.payload, Headers(self.headers), sequence=self.sequence)

    def grave(self, tenant: str) -> str:
        """The subject that it is stored on."""
        return dead_subject(tenant, session_name(self.pipeline, self.event_id))


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
        await bus.publish_once(dead.grave(tenant), msgspec.json.encode(dead), headers=headers)


async def forget_event(bus: Bus, tenant: str, dead: DeadEvent) -> None:
    """Remove the record of an event that was given up."""
    await bus.purge(STREAM_DEAD, dead.grave(tenant))


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
        dead = msgspec.json.decode(delivery.payload, type=DeadEvent)
    except msgspec.MsgspecError:
        return None
    return dead if dead.pipeline == pipeline else None

"""Runs a pipeline: each event in a session of its own, its result published once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from parrot_mq.bus import Delivery, DurableConsumer, Settlement, get_values, set_variable, store_identified
from parrot_mq.client import Client, Session
from parrot_mq.errors import EventMismatch, NoResponders, ParrotError, TransportError
from parrot_mq.messages import DeadEvent, ErrorInfo, VariableAddress
from parrot_mq.observability import use_trace
from parrot_mq.pipelines.dead import bury_event, dead_events, delivery_of, forget_event
from parrot_mq.pipelines.events import SPEC_VERSION, Event, encode_event, read_event
from parrot_mq.pipelines.mapping import map_fields, point, text_of
from parrot_mq.pipelines.pipeline import Pipeline
from parrot_mq.pipelines.repeatable import RepeatableCalls, session_name, short_digest
from parrot_mq.program import SemanticVariable
from parrot_mq.tasks import task_group
from parrot_mq.types import SessionId, TenantId, VariableId

__all__ = ["PipelineRunner", "PipelineStatistics"]

_log = structlog.get_logger(__name__)

PUBLISHED = VariableId("pipeline-published")
"""Set in an event's session when its result is published; such an event has nothing left to do."""
RETRY_S = 1.0
NO_STREAM = "no stream takes the results; create one for the subject, or say `stored = false` in `result`"


@dataclass(slots=True, kw_only=True)
class PipelineStatistics:
    """What one process has done.

    Attributes:
        num_published: Results published.
        num_repeated: Events whose result had been published before.
        num_dead: Events given up.
        num_retried: Times that an event was put back because of something that may pass.
        num_in_hand: Events that are being worked on.
    """

    num_published: int = 0
    num_repeated: int = 0
    num_dead: int = 0
    num_retried: int = 0
    num_in_hand: int = 0


class PipelineRunner:
    """One process of a pipeline; any number may run.

    Delivery: an event that comes again meets its own values, so it costs nothing and gives the same result; its result
    is published under an id of its own, so a stream keeps it once.
    Ordering: none between events.
    """

    def __init__(self, pipeline: Pipeline, client: Client) -> None:
        self._pipeline = pipeline
        self._client = client
        self._bus = client.bus
        self._statistics = PipelineStatistics()

    def statistics(self) -> PipelineStatistics:
        """What was done so far."""
        return replace(self._statistics)

    # -- sources -----------------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; then finish what is in hand.

        Cancel: events of a stream that are in hand come again.

        Raises:
            ConfigurationError: There is no such stream.
            PipelineError: The stream of events would take the results.
            TransportError: The server refuses what the pipeline needs.
        """
        if self._pipeline.source.stream:
            consumer = self._consumer()
            if await consumer.takes(self._bus, self._pipeline.result.subject):
                raise self._pipeline.circle()
            await consumer.run(self._bus, self.handle, stop)
        else:
            await self._listen(stop)

    def _consumer(self) -> DurableConsumer:
        source, limits = self._pipeline.source, self._pipeline.limits
        return DurableConsumer(
            stream=source.stream,
            name=f"pipeline-{self._pipeline.name}",
            subject=source.subject,
            max_in_hand=limits.concurrency,
            ack_wait_s=source.ack_wait_s,
        )

    async def _listen(self, stop: asyncio.Event) -> None:
        """Take what is published now; processes share it. While all places are taken, the subscription keeps it."""
        places = asyncio.Semaphore(self._pipeline.limits.concurrency)
        async with task_group() as group:

            async def handle(delivery: Delivery) -> None:
                try:
                    while await self.handle(delivery) is Settlement.AGAIN:
                        await asyncio.sleep(RETRY_S)
                        delivery = replace(delivery, num_delivered=delivery.num_delivered + 1)
                finally:
                    places.release()

            async def take(delivery: Delivery) -> None:
                await places.acquire()
                group.create_task(handle(delivery), name=f"pipeline-{self._pipeline.name}:handle")

            queue = f"pipeline-{self._pipeline.name}"
            subscription = await self._bus.subscribe(self._pipeline.source.filter, take, queue=queue)
            try:
                await stop.wait()
            finally:
                await subscription.aclose()

    # -- one event ---------------------------------------------------------------------------------------------------

    async def handle(self, delivery: Delivery) -> Settlement:
        """Work on one event to its end; what goes wrong is its own affair. Doing it twice publishes one result."""
        self._statistics.num_in_hand += 1
        try:
            event_id, error = await self._attempt(delivery)
            return Settlement.DONE if error is None else await self._fail(delivery, event_id, error)
        finally:
            self._statistics.num_in_hand -= 1

    async def _attempt(self, delivery: Delivery, *, is_replay: bool = False) -> tuple[str, Exception | None]:
        """Work on an event once; returns what tells it apart, and what went wrong."""
        event_id = f"unread {delivery.subject} {short_digest(delivery.payload.hex())}"
        try:
            event = read_event(delivery)
            event_id = self._identify(event, delivery)
            await self._work(event, event_id, is_replay=is_replay)
        except Exception as error:
            return event_id, error
        return event_id, None

    def _identify(self, event: Event, delivery: Delivery) -> str:
        """What tells the event apart from others.

        Raises:
            EventMismatch: Nothing does.
        """
        source = self._pipeline.source
        if source.id:
            return text_of(point(event.data, source.id), source.id)
        if event.id:
            return event.id
        if delivery.sequence:
            return f"{source.stream} {delivery.sequence}"
        problem = "it is no CloudEvent and comes from no stream; name the field by `id` in `source`"
        raise EventMismatch(where="its id", problem=problem)

    async def _work(self, event: Event, event_id: str, *, is_replay: bool) -> None:
        name = session_name(self._pipeline.name, event_id)
        mark = VariableAddress(TenantId(self._client.tenant), SessionId(name), PUBLISHED)
        if await get_values(self._bus, [mark]):
            self._statistics.num_repeated += 1
            return
        inputs = map_fields(event.data, self._pipeline.inputs)
        if is_replay:
            await self._forget_values(name)
        limits = self._pipeline.limits
        with use_trace(event.trace):  # what the program calls belongs to the trace of the event
            _log.debug("event_received", pipeline=self._pipeline.name, session=name)
            async with self._client.session(name, model=self._pipeline.model, timeout_s=limits.timeout_s) as session:
                data = await self._run_program(session, inputs)
        await self._publish(event, event_id, data)
        await set_variable(self._bus, mark, "yes")
        self._statistics.num_published += 1

    async def _run_program(self, session: Session, inputs: Mapping[str, str]) -> Any:
        with RepeatableCalls(session).as_current():
            return await _resolve(await self._pipeline.program(**inputs))

    async def _publish(self, event: Event, event_id: str, data: Any) -> None:
        result, name = self._pipeline.result, self._pipeline.name
        attributes = {
            "specversion": SPEC_VERSION,
            "id": event_id,
            "source": f"/parrot-mq/{self._client.tenant}/{name}",
            "type": result.type or f"{name}.result",
            "datacontenttype": "application/json",
        }
        if subject := event.attributes.get("subject"):
            attributes["subject"] = subject
        trace = event.trace.child(f"{name} {event_id}") if event.trace is not None else None
        payload, headers = encode_event(Event(data=data, attributes=attributes, trace=trace), result.format)
        if not result.stored:
            await self._bus.publish(result.subject, payload, headers=headers)
            return
        try:
            message_id = session_name(name, event_id)
            await store_identified(self._bus, result.subject, payload, message_id=message_id, headers=headers)
        except NoResponders as error:
            raise NoResponders(subject=result.subject, remedy=NO_STREAM) from error

    async def _fail(self, delivery: Delivery, event_id: str, error: Exception) -> Settlement:
        """Decide what becomes of an event: again if what stands against it may pass, else to the dead letters."""
        name = self._pipeline.name
        is_temporary = isinstance(error, ParrotError) and error.retryable
        if is_temporary and delivery.num_delivered < self._pipeline.limits.max_attempts:
            _log.info(
                "event_retried", pipeline=name, event_id=event_id, attempt=delivery.num_delivered, reason=str(error)
            )
            self._statistics.num_retried += 1
            return Settlement.AGAIN
        dead = DeadEvent(
            pipeline=name,
            event_id=event_id,
            reason=ErrorInfo.from_error(error),
            subject=delivery.subject,
            payload=delivery.payload,
            headers=dict(delivery.headers),
            sequence=delivery.sequence,
        )
        try:
            await bury_event(self._bus, self._client.tenant, dead)
        except TransportError as transport:
            _log.warning("event_not_buried", pipeline=name, event_id=event_id, reason=str(transport))
            return Settlement.AGAIN
        _log.warning("event_given_up", pipeline=name, event_id=event_id, code=dead.reason.code, reason=str(error))
        self._statistics.num_dead += 1
        return Settlement.DONE

    # -- replay ------------------------------------------------------------------------------------------------------

    async def replay(self) -> PipelineStatistics:
        """Work once more on all events that were given up, with fresh values; those that fail again stay dead.

        Raises:
            NoResponders: No coordinator is running.
            TransportError: They cannot be read.
        """
        every = [dead async for dead in dead_events(self._bus, self._client.tenant, self._pipeline.name)]
        graves = [dead for dead in every if not dead.is_cut]
        self._statistics.num_dead += len(every) - len(graves)
        places = asyncio.Semaphore(self._pipeline.limits.concurrency)
        async with task_group() as group:
            for dead in graves:
                await places.acquire()
                task = group.create_task(self._replay(dead), name=f"pipeline-{self._pipeline.name}:replay")
                task.add_done_callback(lambda _: places.release())
        return self.statistics()

    async def _replay(self, dead: DeadEvent) -> None:
        """The record goes when the result is published, so a replay may be killed, too."""
        for _ in range(self._pipeline.limits.max_attempts):
            event_id, error = await self._attempt(delivery_of(dead), is_replay=True)
            if error is None:
                await forget_event(self._bus, self._client.tenant, dead)
                return
            if not (isinstance(error, ParrotError) and error.retryable):
                break
            await asyncio.sleep(RETRY_S)
        self._statistics.num_dead += 1
        _log.warning("event_stays_dead", pipeline=self._pipeline.name, event_id=event_id, reason=str(error))

    async def _forget_values(self, name: str) -> None:
        """Remove the values of a session: they led to a failure."""
        async with self._client.session(name) as session:
            await session.close()


async def _resolve(value: Any) -> Any:
    """Wait for the variables in a value; all were submitted before, so one after the other costs nothing."""
    match value:
        case SemanticVariable():
            return await value
        case dict():
            return {str(key): await _resolve(each) for key, each in value.items()}
        case list() | tuple():
            return [await _resolve(each) for each in value]
        case _:
            return value

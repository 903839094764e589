"""One of several coordinators leads, the others stand by: taking the lead, keeping, losing and releasing it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import NoReturn

import msgspec

from parrot_mq.actors import SystemStatistics
from parrot_mq.bus import Bus, Delivery, FencedBus
from parrot_mq.clock import Clock, SystemClock
from parrot_mq.coordinator.config import CoordinatorConfig
from parrot_mq.coordinator.coordinator import Coordinator, open_coordinator
from parrot_mq.coordinator.leadership.election import Election
from parrot_mq.coordinator.statistics import Board, CoordinatorStatistics, LeaderStatistics
from parrot_mq.errors import (
    CodecError,
    ConfigurationError,
    ConnectFailed,
    ConnectionLost,
    ConsumerTakenOver,
    NoResponders,
    ParrotError,
    PublishRejected,
    RecordChanged,
    RequestTimeout,
    TransportError,
)
from parrot_mq.messages import LEASE_SUBJECT, STREAM_LEASES, CoordinatorLease, decode, encode_json
from parrot_mq.observability import get_logger
from parrot_mq.tasks import task_group
from parrot_mq.types import fresh_id

__all__ = ["Candidate", "LeaderConfig", "open_candidate"]

RENEWALS = 5
"""How often a lease is renewed in the time that it holds."""
RETRY_S = 0.05
RELEASE_S = 1.0

log = get_logger(__name__)

Connect = Callable[[], AbstractAsyncContextManager[Bus]]


def _process_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(frozen=True, kw_only=True)
class LeaderConfig:
    """Settings of a candidate, checked when they are made.

    Attributes:
        name: Name of this process for people.
        lease_s: The lead passes on when its holder was not heard of for this long. A holder whose process or machine
            stands still for almost as long loses the lead.
    """

    name: str = field(default_factory=_process_name)
    lease_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.lease_s <= 3600:
            raise ConfigurationError(f"lease_s of a leader must be 0.1 to 3600 seconds, got {self.lease_s}")


class _Term:
    """The time in which a candidate leads.

    Attributes:
        bus: The connection for all that is done in it, cut at its end.
        reason: Why it has ended; empty while it lasts.
        is_over: Set when it has ended.
    """

    def __init__(self, bus: Bus, election: Election, clock: Clock) -> None:
        self._election = election
        self._clock = clock
        self.bus = FencedBus(bus, self._may_act, reason="this coordinator does not lead any more")
        self.reason = ""
        self.is_over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def _may_act(self) -> bool:
        return not self.is_over.is_set() and self._election.may_act(self._clock.monotonic())

    def watch(self) -> None:
        """End it when the lease ends.

        By a timer and not in a task: when a process that stood still goes on, this runs before the tasks that its other
        timers and its connections wake up.
        """
        remaining_s = self._election.acts_until - self._clock.monotonic()
        if remaining_s <= 0:
            self.end(f"the lease could not be renewed within {self._election.lease_s:g} s")
        else:
            self._timer = asyncio.get_running_loop().call_later(remaining_s, self.watch)

    def end(self, reason: str) -> None:
        """End it now: nothing that its actors still do is seen by anyone. Once ended, nothing happens."""
        if not self.is_over.is_set():
            self.reason = reason
            self.bus.abort()
            self.is_over.set()

    def forget(self) -> None:
        """Nobody needs to watch it any more."""
        if self._timer is not None:
            self._timer.cancel()


class Candidate:
    """A coordinator that leads, or stands by to take the lead: connected, with all that it needs in memory.

    What it does as a leader goes over a connection of its own for each term, which is cut at the end of the term, in
    the same step in which that end is noticed. So nothing is said after it, not even what was queued before, and a
    process that stood still while another took over says nothing when it goes on.
    """

    def __init__(
        self, bus: Bus, connect: Connect, config: CoordinatorConfig, leader_config: LeaderConfig, clock: Clock
    ) -> None:
        self._bus = bus
        self._connect = connect
        self._clock = clock
        self._lease_s = leader_config.lease_s
        self._election = Election(me=fresh_id(leader_config.name), lease_s=leader_config.lease_s)
        self._config = replace(config, process=self._election.me)
        self._heard = asyncio.Event()
        self._changed = asyncio.Event()
        self._running: Coordinator | None = None
        self._num_terms = 0

    # -- what others see ---------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """How the record of the lease and the service's report name it."""
        return self._election.me

    @property
    def leads(self) -> bool:
        """Whether it leads now, and is ready to."""
        return self._running is not None and self._election.may_act(self._clock.monotonic())

    async def wait_leading(self) -> Coordinator:
        """Wait until it leads and is ready to; returns the coordinator of this term."""
        while self._running is None:
            self._changed.clear()
            await self._changed.wait()
        return self._running

    def statistics(self) -> CoordinatorStatistics:
        """What it has to do and has done in this term; nothing while it stands by."""
        return self._running.statistics() if self._running is not None else Board().statistics(num_unfinished=0)

    def leadership(self) -> LeaderStatistics:
        """Whether it leads, and who does."""
        record = self._election.record
        return LeaderStatistics(
            leads=self.leads,
            holder=self._election.holder,
            term=record.term if record is not None else 0,
            num_terms=self._num_terms,
        )

    def actors(self) -> SystemStatistics:
        """How its actors stand; it has none while it stands by."""
        if self._running is not None:
            return self._running.actors()
        return SystemStatistics(node=self._config.node, actors=())

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Stand by and lead, in turn, until cancelled; then release the lease.

        Cancel: the coordinator has stopped in order, and others know that the lead is free.

        Raises:
            JetStreamUnavailable, ServerTooOld, StreamMismatch, PermissionDenied: It can never lead.
            ConnectionClosed: The bus was closed.
        """
        await self._bus.ensure_streams()
        subscription = await self._bus.subscribe(LEASE_SUBJECT, self._on_record)
        try:
            while True:
                async with self._connection() as bus:
                    reason = await self._stand_by()
                    await self._lead(bus, reason)
        finally:
            await subscription.aclose()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Bus]:
        """A connection for the next term, as soon as a server takes us."""
        async with AsyncExitStack() as stack:
            while True:
                try:
                    bus = await stack.enter_async_context(self._connect())
                except ConnectFailed as error:
                    if not error.retryable:
                        raise
                    log.debug("connection_not_opened", reason=error.message)
                    await self._clock.sleep(RETRY_S)
                else:
                    break
            yield bus

    async def _on_record(self, delivery: Delivery) -> None:
        """Someone has written, or has tried to: read what stands there."""
        self._heard.set()

    # -- standing by -------------------------------------------------------------------------------------------------

    async def _stand_by(self) -> str:
        """Wait until the lease is ours; returns why it could be taken."""
        election, told = self._election, ""
        while True:
            self._heard.clear()
            try:
                await self._read()
                wait_s = election.may_take_at - self._clock.monotonic()
                if wait_s <= 0:
                    reason = self._why_free()
                    await self._write(election.next_record(since=self._clock.now()))
                    return reason
            except RecordChanged:
                continue
            except TransportError as error:
                _raise_if_final(error)
                log.debug("lease_not_read", reason=error.message)
                wait_s = RETRY_S
            else:
                if told != election.holder:
                    told = election.holder
                    log.info("coordinator_stands_by", process=self.name, leader=told)
            await self._wait_heard(min(wait_s, self._lease_s / RENEWALS))

    def _why_free(self) -> str:
        record = self._election.record
        if record is None:
            return "nobody has led before"
        if not record.holder:
            return "the one before has released it"
        if record.holder == self.name:
            return "nobody else has taken it since"
        return f"{record.holder} was not heard of for {record.lease_s:g} s"

    async def _wait_heard(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self._heard.wait()
        except TimeoutError:
            pass

    # -- the record --------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._lease_s):
                found = await self._bus.newest(STREAM_LEASES, LEASE_SUBJECT)
        except TimeoutError:
            raise RequestTimeout(subject=LEASE_SUBJECT, timeout_s=self._lease_s) from None
        record = self._decode(found) if found is not None else None
        self._election.read(record, found.sequence if found is not None else 0, self._clock.monotonic())

    def _decode(self, delivery: Delivery) -> CoordinatorLease:
        try:
            return decode(delivery.payload, CoordinatorLease)
        except CodecError as error:
            log.warning("lease_unreadable", reason=error.message)
            return CoordinatorLease(holder="somebody else", lease_s=self._lease_s, term=0, since=delivery.timestamp)

    async def _write(self, record: CoordinatorLease) -> None:
        sent_at = self._clock.monotonic()
        sequence = await self._bus.replace(
            LEASE_SUBJECT,
            encode_json(record),
            expected_sequence=self._election.sequence,
            timeout_s=self._lease_s / RENEWALS,
        )
        self._election.wrote(record, sequence, sent_at=sent_at, now=self._clock.monotonic())

    # -- leading -----------------------------------------------------------------------------------------------------

    async def _lead(self, bus: Bus, reason: str) -> None:
        """Lead until the term is over; returns then."""
        term = _Term(bus, self._election, self._clock)
        term.watch()
        self._num_terms += 1
        number = self._election.record.term if self._election.record is not None else 0
        log.info("leadership_taken", process=self.name, term=number, reason=reason)
        try:
            async with task_group() as group:
                keeping = group.create_task(self._keep(term), name="coordinator:lease")
                try:
                    await self._serve(term)
                finally:
                    keeping.cancel()
        finally:
            term.forget()
            if term.is_over.is_set():
                self._election.stop()
                log.warning("leadership_lost", process=self.name, term=number, reason=term.reason)
            else:
                await self._release(number)

    async def _serve(self, term: _Term) -> None:
        try:
            async with open_coordinator(term.bus, self._config, self._clock) as running:
                self._running = running
                self._changed.set()
                try:
                    await _until_over(term, running)
                finally:
                    self._running = None
        except ConsumerTakenOver as error:
            term.end(error.message)
        except ParrotError:
            if not term.is_over.is_set():  # else it is what a cut connection does
                raise

    async def _keep(self, term: _Term) -> None:
        """Renew the lease until the term is over."""
        while not term.is_over.is_set():
            await self._clock.sleep(self._lease_s / RENEWALS)
            await self._renew(term)

    async def _renew(self, term: _Term) -> None:
        while not term.is_over.is_set():
            record = self._election.record
            assert record is not None
            try:
                await self._write(record)
            except RecordChanged:  # perhaps by us, if an answer was lost
                await self._look_again(term)
            except TransportError as error:
                _raise_if_final(error)
                log.warning("lease_not_renewed", process=self.name, reason=error.message)
                await self._clock.sleep(RETRY_S)
            else:
                return

    async def _look_again(self, term: _Term) -> None:
        try:
            await self._read()
        except TransportError as error:
            _raise_if_final(error)
        else:
            if self._election.holder != self.name:
                term.end(f"{self._election.holder or 'somebody'} has taken the lease")

    async def _release(self, number: int) -> None:
        """Tell others that nobody leads now."""
        self._election.stop()
        try:
            async with asyncio.timeout(RELEASE_S):
                await self._read()  # a renewal may have been on its way
                record = self._election.record
                if record is not None and record.holder == self.name:
                    await self._write(msgspec.structs.replace(record, holder=""))
        except (TransportError, TimeoutError) as error:  # it ends by itself
            log.warning("lease_not_released", process=self.name, reason=str(error))
        else:
            log.info("leadership_released", process=self.name, term=number, reason="the coordinator stops")


def _raise_if_final(error: TransportError) -> None:
    """Raise what does not pass by itself."""
    if not isinstance(error, (NoResponders, RequestTimeout, ConnectionLost, PublishRejected)):
        raise error


async def _until_over(term: _Term, running: Coordinator) -> None:
    async with task_group() as group:
        watching = group.create_task(running.wait_closed(), name="coordinator:watch")
        await term.is_over.wait()
        watching.cancel()


@asynccontextmanager
async def open_candidate(
    connect: Connect,
    config: CoordinatorConfig | None = None,
    leader_config: LeaderConfig | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Candidate]:
    """Run a coordinator that leads when no other does, until the block ends; then another may lead at once.

    Args:
        connect: Opens a connection to the bus: one for the lease, and one for each term.

    Raises:
        ConnectFailed, JetStreamUnavailable, ServerTooOld, StreamMismatch, PermissionDenied: It can never lead.
    """
    clock = clock or SystemClock()
    async with connect() as bus, task_group() as group:
        candidate = Candidate(bus, connect, config or CoordinatorConfig(), leader_config or LeaderConfig(), clock)
        running = group.create_task(candidate.run(), name="coordinator:candidate")
        try:
            yield candidate
        finally:
            running.cancel()

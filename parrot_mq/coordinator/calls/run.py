"""One call that was started: a request to whoever serves the function, beats, an answer that is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from parrot_mq.bus import Bus, Delivery, set_variable
from parrot_mq.clock import Clock
from parrot_mq.coordinator.calls.attempts import Setback, SetbackKind
from parrot_mq.coordinator.calls.events import CallEvents
from parrot_mq.coordinator.calls.messages import (
    MAX_OBJECT_BYTES,
    check_object,
    encode_call,
    is_beat,
    name_of,
    pick_large,
    read_answer,
    read_beat,
)
from parrot_mq.coordinator.sessions.ready import Known, ReadyCall
from parrot_mq.errors import (
    ConnectionClosed,
    FunctionFailed,
    FunctionTimedOut,
    NoResponders,
    ParrotError,
    TransportError,
    VariableAlreadySet,
)
from parrot_mq.messages import HEADER_PRODUCER, BlobRef, call_subject, is_inbox
from parrot_mq.messages.values import MAX_INLINE_BYTES
from parrot_mq.observability import get_logger, use_trace

__all__ = ["CallRun"]

NUM_MISSING_BEATS = 3
"""So many beats have to stay away until a host is lost."""
MIN_SILENCE_S = 0.1
"""However short the time between beats is, a host is not lost before that."""
STORE_AGAIN_S = 1.0
_HEADER_BYTES = 1024

log = get_logger(__name__)


class CallRun:
    """Makes the attempts of one call, one after the other.

    Attributes:
        is_out: An attempt is at a host, as far as is known.
        has_answer: There is an answer that can be used; it is stored, or being stored.
    """

    def __init__(self, call: ReadyCall, bus: Bus, clock: Clock, events: CallEvents) -> None:
        self.is_out = False
        self.has_answer = False
        self._call = call
        self._bus = bus
        self._clock = clock
        self._events = events
        self._arguments: Mapping[str, Known] | None = None  # as they travel, once that is found
        self._host = ""
        self._silence_s: float | None = None  # how long nothing may be heard, if there are beats
        self._stop_subject = ""

    async def attempt(self, number: int) -> Setback | None:
        """Call once and store the answer; returns why there is none.

        Delivery: at least once: the function may have run whatever is returned.

        Raises:
            ConnectionClosed: The bus was closed.
        """
        self._events.asked(number)
        began_at = self._clock.monotonic()
        found = await self._ask_and_read(number)
        if not isinstance(found, Setback):
            self._events.answered(self._clock.monotonic() - began_at)
        setback = found if isinstance(found, Setback) else await self._store(*found)
        if setback is not None:
            self._events.lost(setback, self._host)
        return setback

    async def stop_host(self) -> None:
        """Let the host know that its answer is not wanted; one that takes no such message goes on in vain."""
        subject, self._stop_subject = self._stop_subject, ""
        if is_inbox(subject):
            with suppress(ParrotError):
                await self._bus.publish(subject, b"")

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _ask_and_read(self, number: int) -> tuple[Known, str] | Setback:
        """Returns: the answer and who gave it, or why there is none."""
        self._host, self._silence_s, self._stop_subject, self.is_out = "", None, "", True
        try:
            answer = await self._ask(number)
            self._stop_subject = ""
            self._host = name_of(answer.headers.get(HEADER_PRODUCER) or self._host)
            found = read_answer(self._call, answer)
            if isinstance(found, BlobRef):
                await self._check_blob(found)
        except NoResponders as error:
            return Setback(SetbackKind.NOT_SERVED, error)
        except ConnectionClosed:
            raise
        except ParrotError as error:
            await self.stop_host()
            return Setback(_kind_of(error), error)
        finally:
            self.is_out = False
        return found if isinstance(found, Setback) else (found, self._host)

    async def _ask(self, number: int) -> Delivery:
        """Send a call and wait for the answer.

        Raises:
            FunctionTimedOut: It did not come in time, or its host was lost.
            FunctionFailed: The call fits no message, or a beat cannot be read.
            TransportError: As `Bus.request` and `Bus.put_blob`.
        """
        call = self._call
        limit_s = max(0.0, min(call.attempt_timeout_s, call.deadline - self._clock.now()))
        ends_at = asyncio.get_running_loop().time() + limit_s
        deadline = self._clock.now() + limit_s
        try:
            async with asyncio.timeout_at(ends_at) as limit:
                if self._arguments is None:
                    self._arguments = await self._pack()
                payload, headers = encode_call(
                    call,
                    self._arguments,
                    attempt=number,
                    deadline=deadline,
                    max_bytes=self._bus.max_payload - _HEADER_BYTES,
                    trace=self._events.trace,
                )
                return await self._bus.request(
                    call_subject(call.address.tenant, call.address.session, call.function),
                    payload,
                    headers=headers,
                    timeout_s=limit_s,
                    is_last=lambda answer: not is_beat(answer) or self._hear(answer, limit, ends_at),
                )
        except TimeoutError as error:
            raise self._timed_out(limit_s, is_lost=(limit.when() or ends_at) < ends_at) from error

    def _hear(self, beat: Delivery, limit: asyncio.Timeout, ends_at: float) -> bool:
        """A beat came: the next one has to come in time. Returns: False, for the answer is still to come."""
        running = read_beat(self._call, beat)
        is_first = self._silence_s is None
        self._host = name_of(running.host)
        self._silence_s = max(MIN_SILENCE_S, NUM_MISSING_BEATS * running.beat_s)
        self._stop_subject = beat.reply
        if not limit.expired():
            limit.reschedule(min(ends_at, asyncio.get_running_loop().time() + self._silence_s))
        if is_first:
            self._events.taken(self._host)
        return False

    def _timed_out(self, limit_s: float, *, is_lost: bool) -> FunctionTimedOut:
        problem = f"none came within {limit_s:.3g} s"
        if is_lost:
            problem = f"its host {self._host!r} was lost, nothing was heard of it for {self._silence_s:.3g} s"
        return FunctionTimedOut(function=self._call.function, problem=problem)

    async def _pack(self) -> dict[str, Known]:
        """The arguments as they travel, large ones as claim checks."""
        arguments = dict(self._call.arguments)
        for name in pick_large(arguments, min(MAX_INLINE_BYTES, self._bus.max_payload // 2)):
            data = str(arguments[name]).encode()
            digest = await self._bus.put_blob(self._call.address.tenant, data)
            arguments[name] = BlobRef(digest=digest, size_bytes=len(data))
        return arguments

    # -- answers -----------------------------------------------------------------------------------------------------

    async def _check_blob(self, ref: BlobRef) -> None:
        """A large answer with several outputs has to have all of them."""
        call = self._call
        if len(call.outputs) == 1:
            return
        if ref.size_bytes > MAX_OBJECT_BYTES:
            problem = f"its answer has {ref.size_bytes} bytes, with several outputs the limit is {MAX_OBJECT_BYTES}"
            raise FunctionFailed(function=call.function, problem=problem)
        check_object(call, await self._bus.get_blob(call.address.tenant, ref.digest))

    async def _store(self, value: Known, host: str) -> Setback | None:
        """Store an answer, however long the server is away; returns why it cannot be stored."""
        call = self._call
        self.has_answer = True  # the fact may be heard of before the server says that it is stored
        while True:
            try:
                with use_trace(self._events.trace):
                    await set_variable(self._bus, call.address, value, producer=host)
                return None
            except VariableAlreadySet:  # by somebody else; that fact comes, too
                return None
            except ConnectionClosed:
                raise
            except TransportError as error:
                if not error.retryable:
                    return Setback(SetbackKind.REFUSED, error)
                log.warning("answer_not_stored", call=call.key, error=error.message)
            await self._clock.sleep(STORE_AGAIN_S)


def _kind_of(error: ParrotError) -> SetbackKind:
    if isinstance(error, FunctionTimedOut):
        return SetbackKind.FAILED
    return SetbackKind.CUT if isinstance(error, TransportError) and error.retryable else SetbackKind.REFUSED

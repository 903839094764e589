"""Requests to the coordinator about one session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from parrot_mq.bus import Bus, Delivery
from parrot_mq.errors import ConnectionLost, NoResponders, RequestTimeout
from parrot_mq.messages import (
    CONTENT_MSGPACK,
    HEADER_CONTENT_TYPE,
    HEADER_SCHEMA,
    HEADER_STATUS,
    SCHEMA_VERSION,
    STATUS_ERROR,
    ErrorInfo,
    Message,
    SessionCancel,
    SessionClose,
    SessionExplain,
    SessionMark,
    SessionOpen,
    SessionReply,
    SessionStory,
    TaskStory,
    control_subject,
    decode,
    encode,
)
from parrot_mq.types import Objective

__all__ = ["STRUCTURED", "SessionControl"]

M = TypeVar("M", bound=Message)

TIMEOUT_S = 30.0
OPEN_TIMEOUT_S = 10.0
ATTEMPT_S = 5.0
"""How long the first attempt waits for an answer: whoever took the request may have died with it. Each next one waits
twice as long, for a coordinator may have much to read before it answers."""
RECONNECT_S = 0.1
MAX_NAMES = 1000
"""Most variables in one message."""
RETRIES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 1.6)
"""Pauses while nobody answers: a coordinator may be just starting, or taking over from one that was killed."""
REMEDY = "no coordinator is running; start one with `parrot-mq up` or `parrot-mq coordinator`"
STRUCTURED = {HEADER_CONTENT_TYPE: CONTENT_MSGPACK, HEADER_SCHEMA: SCHEMA_VERSION}


class SessionControl:
    """Opens, marks, explains, cancels, closes. Raises `NoResponders` if no coordinator comes to run in time."""

    def __init__(self, bus: Bus, tenant: str, session: str) -> None:
        self._bus = bus
        self._tenant = tenant
        self._session = session

    async def open(self) -> None:
        """Announce the session."""
        await self._ask("open", SessionOpen(), OPEN_TIMEOUT_S)

    async def mark(self, variables: list[str], objective: Objective, *, only_unmarked: bool = False) -> None:
        """Say what is wanted of variables, perhaps only if nothing else was said of them."""
        for part in _parts(variables):
            mark = SessionMark(variables=part, objective=objective, only_unmarked=only_unmarked)
            await self._ask("mark", mark)

    async def mark_awaited(self, variables: list[str]) -> None:
        """Say that somebody waits for variables, unless something else was said of them. A hint: nobody answers."""
        subject = control_subject(self._tenant, self._session, "mark")
        for part in _parts(variables):
            mark = SessionMark(variables=part, only_unmarked=True)
            await self._bus.publish(subject, encode(mark), headers=STRUCTURED)

    async def cancel(self, variables: list[str]) -> int:
        """Give up the tasks that write `variables`, or all; returns how many."""
        return (await self._ask("cancel", SessionCancel(variables=variables))).num_cancelled

    async def close(self) -> int:
        """Give up all tasks and remove the values; returns how many tasks there were."""
        return (await self._ask("close", SessionClose())).num_cancelled

    async def explain(self) -> SessionStory:
        """What the coordinator remembers of the session; asked for in as many parts as it takes."""
        stories: list[TaskStory] = []
        begin = 0
        while True:
            part = await self._request("explain", SessionExplain(begin=begin), SessionStory)
            stories += part.stories
            if part.next_begin <= begin:
                return msgspec.structs.replace(part, stories=stories, next_begin=0)
            begin = part.next_begin

    async def _ask(self, verb: str, request: Message, timeout_s: float = TIMEOUT_S) -> SessionReply:
        return await self._request(verb, request, SessionReply, timeout_s)

    async def _request(self, verb: str, request: Message, answer: type[M], timeout_s: float = TIMEOUT_S) -> M:
        subject = control_subject(self._tenant, self._session, verb)
        reply = await self._repeat(subject, encode(request), timeout_s)
        if reply.headers.get(HEADER_STATUS) == STATUS_ERROR:
            raise decode(reply.payload, ErrorInfo, reply.headers).to_error()
        return decode(reply.payload, answer, reply.headers)

    async def _repeat(self, subject: str, payload: bytes, timeout_s: float) -> Delivery:
        """Ask until somebody answers.

        Delivery: at least once. Each request says what is to be and not what to change, so a second time does no harm;
        only the number of tasks that were given up is then that of the second time.

        Raises:
            NoResponders: Nobody was there for a while; the message says what to do.
            RequestTimeout: Somebody was there and did not answer in time, however often it was asked.
        """
        loop = asyncio.get_running_loop()
        deadline, attempt_s, pauses = loop.time() + timeout_s, ATTEMPT_S, iter(RETRIES_S)
        while (remaining_s := deadline - loop.time()) > 0:
            limit_s = min(attempt_s, remaining_s)
            try:
                return await self._bus.request(subject, payload, headers=STRUCTURED, timeout_s=limit_s)
            except NoResponders as error:
                if (pause_s := next(pauses, None)) is None:
                    raise NoResponders(subject=subject, remedy=REMEDY) from error
                await asyncio.sleep(pause_s)
            except ConnectionLost:
                await asyncio.sleep(RECONNECT_S)
            except RequestTimeout:
                attempt_s *= 2
        raise RequestTimeout(subject=subject, timeout_s=timeout_s)


def _parts(names: list[str]) -> Iterator[list[str]]:
    return (names[begin : begin + MAX_NAMES] for begin in range(0, len(names), MAX_NAMES))

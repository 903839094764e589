"""nats-py's client, changed where its own way loses messages, callers or the read loop.

What is used of nats-py: addresses, TLS, authentication, the parser, the flusher, keep-alive. Subscriptions, requests
and reconnection are ours. The changed methods are private in nats-py: `check_nats_py` tells at once if they are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from nats.aio.client import PING_PROTO, Client, __version__

from parrot_mq.errors import ConfigurationError

__all__ = ["Sink", "WireClient", "check_nats_py"]

_log = structlog.get_logger(__name__)

Sink = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called in the read loop with subject, reply, payload and header block of one message."""

_CHANGED = ("_process_msg", "_process_err", "_process_op_err", "_process_pong", "_send_ping", "_send_command")


def check_nats_py() -> None:
    """Raise `ConfigurationError` if this nats-py does not have the methods that are changed here."""
    missing = [name for name in _CHANGED if not hasattr(Client, name)]
    if missing:
        raise ConfigurationError(f"nats-py {__version__} cannot be used, it lacks {missing}; install nats-py 2.16")


class WireClient(Client):
    """One connection to one server; it never reconnects, it reports its end once.

    Attributes:
        sinks: Where the messages of each subscription id go.
        lost: Set with the reason when the connection is no longer of use.
    """

    def __init__(self, *, on_error: Callable[[str], None]) -> None:
        super().__init__()
        self.sinks: dict[int, Sink] = {}
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_error = on_error

    @property
    def announced_version(self) -> str:
        """Version of the server."""
        return str(self._server_info.get("version", "0"))

    # -- out: never waits, keeps the order ---------------------------------------------------------------------------

    @property
    def num_unsent_bytes(self) -> int:
        """Bytes that wait for the flusher."""
        return int(self._pending_data_size)

    def send(self, frame: bytes) -> None:
        """Queue a frame; the flusher writes what was queued in one turn of the loop together."""
        self._pending.append(frame)
        self._pending_data_size += len(frame)
        queue = self._flush_queue
        assert queue is not None, "send comes after connect"
        if queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())

    async def wait_sent(self) -> None:
        """Wait until the flusher has written all that is queued, or the connection is lost."""
        assert self._flush_queue is not None, "wait_sent comes after connect"
        flushed = asyncio.get_running_loop().create_future()
        await self._flush_queue.put(flushed)
        await asyncio.wait([flushed, self.lost], return_when=asyncio.FIRST_COMPLETED)

    async def ping(self, timeout_s: float) -> bool:
        """Whether the server has processed all that was sent so far; False if it does not say so in time.

        The time counts in two halves, so that a loop that stood still for a while does not look like a silent server.
        """
        if self.lost.done():
            return False
        pong = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        for _ in range(2):
            await asyncio.wait([pong, self.lost], timeout=timeout_s / 2, return_when=asyncio.FIRST_COMPLETED)
            if pong.done() or self.lost.done():
                break
        return pong.done() and not self.lost.done()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # nats-py writes a PING past the commands that are queued, so its answer says nothing about them.
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        self.send(PING_PROTO)

    # -- in ----------------------------------------------------------------------------------------------------------

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        # nats-py queues each message for a task per subscription, parses all headers, and drops when it is late.
        sink = self.sinks.get(sid)
        if sink is None:
            return
        try:
            sink(bytes(subject), bytes(reply), data, headers)
        except Exception:
            _log.exception("sink_failed", subject=bytes(subject))

    async def _process_pong(self) -> None:
        # nats-py sets the result of a future that a caller may have cancelled; that would end its read loop.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    # -- the end -----------------------------------------------------------------------------------------------------

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good, in a task that nobody owns.
        self._on_error(err_msg)
        if "permissions violation" not in err_msg:
            self.lose(err_msg.strip("'"))

    async def _process_op_err(self, e: Exception) -> None:
        self.lose(str(e) or type(e).__name__)

    def watch(self) -> None:
        """Report the end of the read loop and the flusher as the end of the connection."""
        for task in (self._reading_task, self._flusher_task):
            assert task is not None, "watch comes after connect"
            task.add_done_callback(self._on_loop_ended)

    def _on_loop_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.lose(str(error) if error else "the connection ended")

    def lose(self, reason: str) -> None:
        """Say, once, that this connection is of no more use."""
        if not self.lost.done():
            self.lost.set_result(reason)

    def abort(self) -> None:
        """Drop the connection now, with what was not sent; `end` still has to follow."""
        self.lose("it was closed here")
        self.sinks.clear()
        self._pending.clear()
        self._pending_data_size = 0
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            # A server that stands still would keep a polite close waiting for ever.
            writer.transport.abort()

    async def end(self) -> None:
        """Drop the connection, with what was not sent."""
        self.abort()
        try:
            async with asyncio.timeout(1):
                await self.close()
        except Exception as error:
            _log.debug("close_failed", error=str(error))

"""The connection that outlives its connections: it is made again for ever, with its subscriptions."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable

import structlog

from parrot_mq.bus.config import BusConfig, redact
from parrot_mq.bus.dial import dial
from parrot_mq.bus.interests import Interest, Interests
from parrot_mq.bus.tasks import TaskOwner
from parrot_mq.bus.wire_client import WireClient
from parrot_mq.errors import ConfigurationError, ConnectFailed, ConnectionClosed, PermissionDenied

__all__ = ["Connection", "call_all"]

_log = structlog.get_logger(__name__)
_DENIED = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"]*)"')
_MAX_UNSENT_BYTES = 2 * 1024 * 1024
_MAX_HELD_BYTES = 4 * 1024 * 1024


class Connection:
    """Sends frames, keeps interests, and tells when the connection was lost and made again.

    Attributes:
        max_payload: Most bytes of one message, as the server announced.
        server_version: Version of the server, as it announced.
        on_lost: Called when a connection is lost; what waits for answers ends there.
        on_restored: Called when it was made again and all interests are known to the server.
        on_publish_denied: Called with the subject, in lower case, that the server refused.
    """

    def __init__(self, config: BusConfig, tasks: TaskOwner) -> None:
        self.config = config
        self.max_payload = 1024 * 1024
        self.server_version = ""
        self.on_lost: list[Callable[[], None]] = []
        self.on_restored: list[Callable[[], None]] = []
        self.on_publish_denied: Callable[[str], None] = lambda subject: None
        self._tasks = tasks
        self._client: WireClient | None = None
        self._interests = Interests()
        self._held: list[bytes] = []
        self._num_held_bytes = 0
        self._changed = asyncio.Event()
        self._is_closed = False

    # -- life --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Connect for the first time and start to watch.

        Raises:
            ConnectFailed: No server took us within the connect timeout.
        """
        deadline = asyncio.get_running_loop().time() + self.config.connect_timeout_s
        client = await self._dial(deadline)
        self._adopt(client)
        self._tasks.start(self._supervise(client), name="bus:connection")
        self._tasks.start(self._watch(), name="bus:watchdog")

    async def aclose(self) -> None:
        """Send what is queued, within a bounded time, and end. May be called twice."""
        self._is_closed = True
        client, self._client = self._client, None
        self._wake()
        if client is not None:
            try:
                await client.ping(min(2.0, self.config.connect_timeout_s))
            finally:
                await client.end()

    def abort(self) -> None:
        """Cut the connection, with all that was not sent, for good; `aclose` still has to follow."""
        self._is_closed = True
        self._held.clear()
        if self._client is not None:
            self._client.abort()
        self._wake()

    @property
    def is_closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._is_closed

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._client is not None and not self._client.lost.done()

    async def wait_connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            ConnectionClosed: It was closed here.
        """
        self._check_open()
        while not self.is_connected:
            # A connection that was lost a moment ago is put away by the supervisor in its next turn.
            await (asyncio.sleep(0) if self._client is not None else self._changed.wait())
            self._check_open()

    async def _dial(self, deadline: float) -> WireClient:
        """Try all servers in turn until one takes us, all refuse the credentials, or the time is over."""
        loop = asyncio.get_running_loop()
        servers = random.sample(self.config.servers, len(self.config.servers))
        while True:
            errors: list[ConnectFailed] = []
            for server in servers:
                try:
                    return await dial(self.config, server, on_error=self._on_error)
                except ConnectFailed as error:
                    errors.append(error)
            if loop.time() + self.config.reconnect_wait_s >= deadline or not any(e.retryable for e in errors):
                reasons = dict.fromkeys(str(error.facts["reason"]) for error in errors)
                names = [redact(server) for server in self.config.servers]
                raise ConnectFailed(servers=names, reason="; ".join(reasons))
            await asyncio.sleep(self.config.reconnect_wait_s)

    # -- reconnection ------------------------------------------------------------------------------------------------

    async def _supervise(self, client: WireClient) -> None:
        """Replace the connection whenever it is lost, however long that takes.

        `asyncio.wait_for`, which nats-py uses, can swallow a cancellation; so each turn looks whether the bus is open.
        """
        try:
            while True:
                reason = await client.lost
                self._check_open()
                _log.warning("bus_connection_lost", reason=reason)
                self._client = None
                self._changed.clear()
                call_all(self.on_lost)
                await client.end()
                client = await self._dial_again()
                self._adopt(client)
                await self._restore(client)
        except ConnectionClosed:
            await client.end()
        finally:  # without a supervisor nobody may wait for a connection
            self._is_closed = True
            self._wake()

    async def _dial_again(self) -> WireClient:
        reason = ""
        while True:
            self._check_open()
            try:
                return await self._dial(asyncio.get_running_loop().time())
            except (ConnectFailed, ConfigurationError) as error:
                if error.message != reason:
                    reason = error.message
                    _log.warning("bus_reconnect_failed", reason=reason)
            await asyncio.sleep(self.config.reconnect_wait_s)

    def _adopt(self, client: WireClient) -> None:
        """Make `client` the connection: first all interests, then what was held while there was none."""
        self._check_open()
        self.max_payload, self.server_version = client.max_payload, client.announced_version
        self._interests.announce_all(client)
        for frame in self._held:
            client.send(frame)
        self._held.clear()
        self._num_held_bytes = 0
        self._client = client
        self._wake()

    async def _restore(self, client: WireClient) -> None:
        if await client.ping(self.config.ping_interval_s):
            _log.info("bus_connection_restored", num_subscriptions=len(self._interests))
            call_all(self.on_restored)

    async def _watch(self) -> None:
        """Make sure that the server answers: nats-py says "connected" also when it reads no more."""
        while not self._is_closed:
            await asyncio.sleep(self.config.ping_interval_s / 2)
            client = self._client
            if client is not None and not await client.ping(self.config.ping_interval_s / 2):
                client.lose("the server does not answer")

    # -- out ---------------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send to the connection that there is; without one the frame is dropped."""
        if self._client is not None:
            self._client.send(frame)

    async def send_or_hold(self, frame: bytes) -> None:
        """Send a frame; without a connection keep it for the next one, and wait when there is too much of either.

        Raises:
            ConnectionClosed: It was closed here.
        """
        self._check_open()
        if not self.is_connected and self._num_held_bytes + len(frame) <= _MAX_HELD_BYTES:
            self._held.append(frame)
            self._num_held_bytes += len(frame)
            return
        await self.wait_connected()
        self.send(frame)
        await self.wait_writable()

    async def wait_writable(self) -> None:
        """Wait if much is queued for the socket already."""
        if self._client is not None and self._client.num_unsent_bytes > _MAX_UNSENT_BYTES:
            await self._client.wait_sent()

    async def flush(self, timeout_s: float) -> bool:
        """Whether the server has processed all that was sent so far."""
        return self._client is not None and await self._client.ping(timeout_s)

    # -- interests ---------------------------------------------------------------------------------------------------

    async def add_interest(self, interest: Interest) -> None:
        """Subscribe; returns when the server knows, now and after each reconnection.

        Raises:
            PermissionDenied: The server refused the subject.
            ConnectionClosed: It was closed here.
        """
        self._check_open()
        denied: list[PermissionDenied] = []
        told, interest.on_denied = interest.on_denied, denied.append
        self.add_interest_nowait(interest)
        try:
            while not await self.flush(self.config.ping_interval_s):
                await self.wait_connected()
        except BaseException:
            self.remove_interest(interest)
            raise
        if denied:
            self.remove_interest(interest)
            raise denied[0]
        interest.on_denied = told

    def add_interest_nowait(self, interest: Interest) -> None:
        """Subscribe without waiting for the server; what is sent next on this connection comes after it."""
        self._interests.add(interest, self._client)

    async def retire_interest(self, interest: Interest, timeout_s: float) -> None:
        """Unsubscribe; returns when all that the server has sent is here, or the time is over."""
        self._interests.retire(interest, self._client)
        await self.flush(timeout_s)

    def remove_interest(self, interest: Interest) -> None:
        """End a subscription. May be called twice."""
        self._interests.remove(interest, self._client)

    # -- errors ------------------------------------------------------------------------------------------------------

    def _on_error(self, text: str) -> None:
        """The server sent `-ERR`; nats-py gives it in lower case, so subjects are compared without case."""
        denied = _DENIED.search(text)
        if denied is None:
            _log.error("bus_server_error", error=text)
            return
        operation, subject = denied.groups()
        if operation == "publish":
            self.on_publish_denied(subject)
        else:
            self._interests.deny(subject)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConnectionClosed

    def _wake(self) -> None:
        self._changed.set()


def call_all(callbacks: list[Callable[[], None]]) -> None:
    """Call each; what one raises is logged and keeps none of the others from being called."""
    for callback in list(callbacks):
        try:
            callback()
        except Exception:
            _log.exception("bus_callback_failed")

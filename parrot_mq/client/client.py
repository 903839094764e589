"""The client: one connection, any number of sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from parrot_mq.bus import Bus, BusConfig, open_bus
from parrot_mq.client.session import Session
from parrot_mq.program import current_session
from parrot_mq.tasks import task_group
from parrot_mq.types import check_name, fresh_id

__all__ = ["Client"]


class Client:
    """Runs programs on a parrot-mq service.

    Example:
        ```python
        async with Client.connect() as client, client.session() as session:
            print(await summarise(passage="…"))
        ```
    """

    def __init__(self, bus: Bus, *, tenant: str = "default") -> None:
        """Use a bus that is open already, for instance a `MemoryBus` in a test; whoever opened it closes it."""
        self.bus = bus
        self.tenant = check_name("tenant", tenant)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, *servers: str, tenant: str = "default", config: BusConfig | None = None
    ) -> AsyncIterator[Client]:
        """Connect for the length of a block.

        Args:
            servers: Addresses such as `nats://host:4222`; by default `PARROT_MQ_SERVERS`, else this machine.
            tenant: Whose subjects are used.
            config: All settings of the connection, instead of the environment's.

        Raises:
            ConnectFailed: No server could be reached; says which were tried, and why.
            ConfigurationError: A setting is malformed.
        """
        if config is None:
            config = BusConfig.from_env(servers=servers) if servers else BusConfig.from_env()
        async with open_bus(config) as bus:
            yield cls(bus, tenant=tenant)

    @asynccontextmanager
    async def session(
        self, name: str = "", *, model: str = "", timeout_s: float = 600.0, marks_awaited: bool = True
    ) -> AsyncIterator[Session]:
        """A session for the length of a block; semantic functions that are called in the block use it.

        Args:
            name: Share a session with others: its values stay when the block ends, until `Session.close` or their
                expiry. Without a name the session is ours alone, and closed with the block.
            model: Who generates, for functions that name no model; empty means the one model that is served.
            timeout_s: Seconds that a task may take, for functions that say nothing else.
            marks_awaited: Whether awaiting a variable of which nothing was said marks it `latency`, so that it comes
                soon although others read it, too.

        Raises:
            NoResponders: No coordinator is running (only for a session of our own).
            InvalidName: The name cannot be used.
        """
        session = Session(
            self.bus,
            tenant=self.tenant,
            name=name or fresh_id("session"),
            model=model,
            timeout_s=timeout_s,
            is_own=not name,
            marks_awaited=marks_awaited,
        )
        async with task_group() as group:
            try:
                await session.start(group)
                with _as_current(session):
                    yield session
            finally:
                await session.stop()


@contextmanager
def _as_current(session: Session) -> Iterator[None]:
    token = current_session.set(session)
    try:
        yield
    finally:
        with suppress(ValueError):  # left in another context than entered, as test fixtures do
            current_session.reset(token)

"""The actors of one process."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from parrot_mq.actors.actor import Actor
from parrot_mq.actors.child import DEFAULT_MAILBOX_CAPACITY, DEFAULT_STOP_TIMEOUT_S, ChildSpec
from parrot_mq.actors.children import Children
from parrot_mq.actors.ref import ActorRef
from parrot_mq.actors.remote import RemoteRef
from parrot_mq.actors.runtime import Runtime
from parrot_mq.actors.statistics import SystemStatistics
from parrot_mq.actors.supervision import RestartPolicy, Supervision
from parrot_mq.clock import Clock, SystemClock
from parrot_mq.errors import ActorNotFound, ConfigurationError, RestartIntensityExceeded
from parrot_mq.observability.logging import get_logger
from parrot_mq.tasks import task_group
from parrot_mq.types import check_name

if TYPE_CHECKING:
    from parrot_mq.bus.base import Bus

__all__ = ["ActorSystem"]

log = get_logger(__name__)


class ActorSystem:
    """The actors of one process: the root of the supervision tree, and the names.

    Its lifetime is one `async with`. Leaving the block stops all actors, the last started first. When children of the
    root end too often, the block is cancelled, everything is stopped, and the block raises `RestartIntensityExceeded`.

    Example:
        >>> class Greeter(Actor):
        ...     async def receive(self, message: object) -> str:
        ...         return f"hello {message}"
        >>> async def main() -> None:
        ...     async with ActorSystem("demo") as system:
        ...         greeter = await system.spawn(Greeter, name="greeter")
        ...         print(await greeter.ask("parrot", timeout_s=1))
        >>> asyncio.run(main())
        hello parrot
    """

    def __init__(
        self, node: str, *, bus: Bus | None = None, clock: Clock | None = None, supervision: Supervision | None = None
    ) -> None:
        """Describe a system; it starts with `async with`.

        Args:
            node: Name of this process on the bus; the first half of its actors' addresses.
            bus: Carries messages from and to other processes. It outlives the system and is not closed by it.
            clock: Time for timers and back-off; limits of waiting (`timeout_s`) run on the event loop's clock.
            supervision: How the root looks after its children.

        Raises:
            InvalidName: `node` cannot be one token of a subject.
        """
        self._runtime = Runtime(self, node=check_name("node", node), clock=clock or SystemClock(), bus=bus)
        self._root = Children(self._runtime, node, supervision or Supervision())
        self._failure: asyncio.Future[None] | None = None
        self._stop_requested = asyncio.Event()
        self._lifetime = self._live()
        self._host: asyncio.Task[Any] | None = None  # runs the block, while a failure may cancel it

    @property
    def node(self) -> str:
        """Name of this process on the bus."""
        return self._runtime.node

    @property
    def bus(self) -> Bus | None:
        """What carries messages from and to other processes."""
        return self._runtime.bus

    @property
    def clock(self) -> Clock:
        """Time for timers and back-off."""
        return self._runtime.clock

    async def spawn(
        self,
        factory: Callable[[], Actor],
        *,
        name: str,
        restart: RestartPolicy = RestartPolicy.PERMANENT,
        mailbox_capacity: int = DEFAULT_MAILBOX_CAPACITY,
        stop_timeout_s: float = DEFAULT_STOP_TIMEOUT_S,
        accepts: Any = None,
    ) -> ActorRef:
        """Start an actor under the root; returns when its `on_start` has finished and it can be reached.

        Args:
            factory: Makes the actor, now and at every restart; its class, or a function without arguments.
            name: Unique in the system, one token of a subject.
            restart: When it is started again after it ended.
            mailbox_capacity: Most messages that wait for it.
            stop_timeout_s: Seconds that the message being handled may take at a stop, and then `on_stop`.
            accepts: A message type, or a union of them, that other processes may send; None: it is not on the bus.

        Cancel: the actor is stopped.

        Raises:
            InvalidName: `name` cannot be one token of a subject.
            ActorNameTaken: Another actor has the name.
            ActorStopped: The system is closed, or the actor was stopped before it was ready.
            TransportError: It could not subscribe.
            Exception: What the factory or `on_start` raised; the actor has stopped.
        """
        return await self._root.spawn(
            ChildSpec(
                factory=factory,
                name=name,
                restart=restart,
                mailbox_capacity=mailbox_capacity,
                stop_timeout_s=stop_timeout_s,
                accepts=accepts,
            )
        )

    def ref(self, name: str) -> ActorRef:
        """Look up an actor of this system.

        Raises:
            ActorNotFound: None has the name.
        """
        cell = self._runtime.cells.get(name)
        if cell is None:
            raise ActorNotFound(address=f"{self.node}/{name}")
        return ActorRef(self._runtime, cell)

    def remote(self, address: str, *, answers: Any = None) -> RemoteRef:
        """Refer to an actor of any process on the bus; arguments and errors as `RemoteRef`.

        Raises:
            ConfigurationError: The system has no bus.
        """
        if self.bus is None:
            raise ConfigurationError(f"the actor system {self.node!r} has no bus: pass bus= to reach {address!r}")
        return RemoteRef(self.bus, address, answers=answers)

    def statistics(self) -> SystemStatistics:
        """How the system stands now."""
        actors = tuple(cell.statistics() for cell in self._runtime.cells.values())
        return SystemStatistics(node=self.node, actors=actors)

    # -- life --------------------------------------------------------------------------------------------------------

    def request_stop(self) -> None:
        """Let `run_until_stopped` return; for signal handlers. May be called twice."""
        self._stop_requested.set()

    async def run_until_stopped(self) -> None:
        """Wait for `request_stop`. A failure of the root cancels the block that this runs in, which then raises it."""
        await self._stop_requested.wait()

    async def wait_failed(self) -> None:
        """Wait until the root has failed; returns when the system is closed without a failure.

        Raises:
            RestartIntensityExceeded: Children of the root ended too often in too short a time.
        """
        if self._failure is None:
            raise RuntimeError(f"the actor system {self.node!r} is not open: use `async with`")
        await asyncio.shield(self._failure)

    async def __aenter__(self) -> Self:
        await self._lifetime.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return await self._lifetime.__aexit__(exc_type, exc, tb)

    def __del__(self) -> None:
        runtime = getattr(self, "_runtime", None)
        if runtime is not None and runtime.is_open:
            warnings.warn(
                f"the actor system {runtime.node!r} was not closed", ResourceWarning, source=self, stacklevel=1
            )

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        self._failure = asyncio.get_running_loop().create_future()
        try:
            async with task_group() as self._runtime.group:
                self._runtime.is_open = True
                supervisor = self._runtime.create_task(self._supervise(), name=f"{self.node}:supervisor")
                try:
                    with self._cancelled_on_failure():
                        yield
                finally:
                    self._runtime.is_open = False
                    supervisor.cancel()
                    await self._root.stop()
        finally:
            for cell in list(self._runtime.cells.values()):
                cell.abandon()  # only after a second cancellation, which ends tasks before they have run
            if not self._failure.done():
                self._failure.set_result(None)

    async def _supervise(self) -> None:
        """Look after the children of the root; a failure goes to the block of the system."""
        assert self._failure is not None
        try:
            await self._root.supervise()
        except RestartIntensityExceeded as error:
            log.error("actor_system_failed", node=self.node, cause=str(error))
            self._failure.set_exception(error)
            self._failure.exception()  # marks it as seen: the block raises it
            if self._host is not None:
                self._host.cancel()

    @contextmanager
    def _cancelled_on_failure(self) -> Iterator[None]:
        """Let a failure of the root cancel the block, and turn that cancellation into the failure.

        As `asyncio.timeout` does it: a cancellation from outside is told apart by the count of `cancelling()`.
        """
        host = self._host = asyncio.current_task()
        assert host is not None
        assert self._failure is not None
        num_cancelling = host.cancelling()
        try:
            yield
        except asyncio.CancelledError:
            if not self._failure.done() or host.uncancel() > num_cancelling:
                raise
        except BaseException:
            if self._failure.done():
                host.uncancel()
            raise
        else:
            if self._failure.done():
                host.uncancel()
        finally:
            self._host = None
        if self._failure.done():
            self._failure.result()

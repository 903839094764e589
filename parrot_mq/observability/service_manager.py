"""What a service tells the service manager that started it: systemd's notification protocol, without a library.

Source: sd_notify(3), systemd.service(5).
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from parrot_mq.clock import Clock, SystemClock
from parrot_mq.errors import ConfigurationError
from parrot_mq.observability.logging import get_logger
from parrot_mq.tasks import task_group

__all__ = ["Condition", "Notifier", "ServiceReporter", "reporting_service"]

TICK_S = 1.0
"""How often a service is looked at, or four times in the time that the watchdog allows."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How a service is.

    Attributes:
        phase: What it is in: it starts, serves, or ends what it has to end.
        status: The same in words, for people.
        progress: Changes whenever it gets further in starting or stopping.
        patience_s: For so long it may go on starting or stopping after each progress, without the next.
        is_alive: False if it is stuck, so that only starting it again helps.
    """

    phase: Literal["starting", "ready", "stopping"]
    status: str = ""
    progress: object = None
    patience_s: float = 15.0
    is_alive: bool = True


class Notifier:
    """Sends messages to the service manager.

    Args:
        address: Of its socket; a leading @ stands for a zero byte. Empty: there is none, and nothing is sent.
        watchdog_s: It restarts us if it does not hear for so long that we are well; 0 if it does not mind.
    """

    def __init__(self, address: str = "", *, watchdog_s: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Notifier:
        """As the service manager says in the environment.

        Raises:
            ConfigurationError: `WATCHDOG_USEC` or `WATCHDOG_PID` is no number.
        """
        environ = os.environ if environ is None else environ
        watchdog_us, pid = _read_number(environ, "WATCHDOG_USEC"), _read_number(environ, "WATCHDOG_PID")
        is_ours = pid in (0, os.getpid())
        return cls(environ.get("NOTIFY_SOCKET", ""), watchdog_s=watchdog_us / 1e6 if is_ours else 0.0)

    @property
    def is_listening(self) -> bool:
        """Whether there is a service manager."""
        return bool(self._address)

    def send(self, *assignments: str) -> bool:
        """Send assignments such as `READY=1`; returns whether there was somebody to send them to. Never waits."""
        if not self._address or not assignments:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as link:
            link.setblocking(False)
            try:
                link.sendto("\n".join(assignments).encode(), self._address)
            except OSError as error:  # it is gone, or does not read: the service goes on
                log.debug("service_manager_not_told", reason=str(error))
                return False
        return True


def _read_number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if text and not text.isdecimal():
        raise ConfigurationError(f"{name}={text!r}: expected a whole number", setting=name)
    return int(text or 0)


class ServiceReporter:
    """Turns how a service is into what the service manager is told: only what has changed, and that it is alive.

    Starting and stopping may take for ever, as long as there is progress; without any, the manager's own limits hold.

    Args:
        notifier: Takes the messages.
        read: Says how the service is.
    """

    def __init__(self, notifier: Notifier, read: Callable[[], Condition]) -> None:
        self._notifier = notifier
        self._read = read
        self._last: Condition | None = None

    def tick(self) -> Condition:
        """Tell what is new; returns how the service is."""
        now, last = self._read(), self._last
        self._last = now
        messages = _phase(now, last)
        if now.status and (last is None or now.status != last.status):
            messages.append("STATUS=" + now.status.replace("\n", " "))
        if now.is_alive:
            messages += ["WATCHDOG=1"] if self._notifier.watchdog_s else []
            messages += _extension(now, last)
        elif last is None or last.is_alive:
            log.error("service_stuck", status=now.status)
        self._notifier.send(*messages)
        return now


def _phase(now: Condition, last: Condition | None) -> list[str]:
    if last is not None and last.phase == now.phase:
        return []
    return {"starting": [], "ready": ["READY=1"], "stopping": ["STOPPING=1"]}[now.phase]


def _extension(now: Condition, last: Condition | None) -> list[str]:
    if now.phase == "ready" or last is None or last.phase != now.phase or last.progress == now.progress:
        return []
    return [f"EXTEND_TIMEOUT_USEC={now.patience_s * 1e6:.0f}"]


@asynccontextmanager
async def reporting_service(
    read: Callable[[], Condition],
    *,
    notifier: Notifier | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[ServiceReporter]:
    """Tell the service manager during the block how the service is; does nothing if there is no manager.

    It is told from the event loop: a loop that stands still is not alive.

    Args:
        read: Says how the service is; called about once a second.
        notifier: Of the environment by default.
        clock: The system's by default.
    """
    notifier = notifier or Notifier.from_env()
    clock = clock or SystemClock()
    reporter = ServiceReporter(notifier, read)
    if not notifier.is_listening:
        yield reporter
        return
    async with task_group() as group:
        ticking = group.create_task(_tick(reporter, notifier, clock), name="service:reporter")
        try:
            yield reporter
        finally:
            ticking.cancel()


async def _tick(reporter: ServiceReporter, notifier: Notifier, clock: Clock) -> None:
    pause_s = min(TICK_S, notifier.watchdog_s / 4) if notifier.watchdog_s else TICK_S
    while True:
        is_starting = reporter.tick().phase == "starting"
        await clock.sleep(min(pause_s, 0.1) if is_starting else pause_s)

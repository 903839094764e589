"""systemd as the service manager, over D-Bus.

Source: https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from parrot_mq.autoscale.units import Unit, UnitPhase
from parrot_mq.errors import ConfigurationError, ServiceManagerUnavailable, UnitRefused

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

__all__ = ["Systemd"]

SERVICE: Final = "org.freedesktop.systemd1"
MANAGER_PATH: Final = "/org/freedesktop/systemd1"
MANAGER: Final = "org.freedesktop.systemd1.Manager"
UNIT: Final = "org.freedesktop.systemd1.Unit"
SERVICE_UNIT: Final = "org.freedesktop.systemd1.Service"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"

MAX_READS: Final = 5
"""So often a unit is read that changes while it is read."""

SESSION_BUS: Final = "DBUS_SESSION_BUS_ADDRESS"

_GONE: Final = (
    "org.freedesktop.DBus.Error.Disconnected",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
    "org.freedesktop.DBus.Error.NoReply",
    "org.freedesktop.DBus.Error.ServiceUnknown",
)
"""Errors that say nothing about the unit: the service manager is not there."""


class _Listed(NamedTuple):
    """A row of `ListUnitsByNames`."""

    name: str
    description: str
    load_state: str
    active_state: str
    sub_state: str
    following: str
    path: str
    job_id: int
    job_type: str
    job_path: str


class Systemd:
    """The units of this machine, or of this user.

    It connects when it is first used, and again after the connection was lost; it knows nothing from one call to the
    next, so it tells the truth whoever started and stopped units meanwhile. Use it as `async with`.

    Args:
        user: The service manager of this user instead of that of the machine.
        address: D-Bus address of another bus than the usual one.
        timeout_s: An answer that takes longer means that systemd does not answer.

    Raises:
        ConfigurationError: dbus-fast is not installed, or there is no bus of this user.
    """

    def __init__(self, *, user: bool = False, address: str = "", timeout_s: float = 5.0) -> None:
        _require_library()
        self._address = address or (_user_bus(os.environ) if user else None)
        self._timeout_s = timeout_s
        self._connection: MessageBus | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._disconnect()

    # -- units -------------------------------------------------------------------------------------------------------

    async def read(self, names: list[str]) -> dict[str, Unit]:
        """How these units stand, by name; see `Units`."""
        return {unit.name: unit for unit in await self._list("ListUnitsByNames", "as", [names])}

    async def find(self, pattern: str) -> list[Unit]:
        """Units that systemd has in memory, with names such as `parrot-worker@*.service`: those that run, or failed."""
        return await self._list("ListUnitsByPatterns", "asas", [[], [pattern]])

    async def start(self, name: str) -> None:
        """Begin to start a unit; see `Units`.

        Mode `fail`: if somebody is stopping it just now, that is not undone.
        """
        await self._operate("start", name, "StartUnit", "ss", [name, "fail"])

    async def stop(self, name: str) -> None:
        """Begin to stop a unit; see `Units`."""
        await self._operate("stop", name, "StopUnit", "ss", [name, "replace"])

    async def reset(self, name: str) -> None:
        """Forget that a unit failed; see `Units`."""
        await self._operate("reset", name, "ResetFailedUnit", "s", [name])

    async def _list(self, member: str, signature: str, body: list[Any]) -> list[Unit]:
        try:
            reply = await self._manage(member, signature, body)
            return [await self._complete(_Listed(*row)) for row in reply.body[0]]
        except _CallFailed as error:
            raise ServiceManagerUnavailable(reason=str(error)) from error

    async def _complete(self, listed: _Listed) -> Unit:
        """Read the rest; again, if it has changed meanwhile: else the end of one run would be told of the next."""
        for _ in range(MAX_READS):
            phase = _phase(listed)
            if phase in (UnitPhase.OFF, UnitPhase.UNAVAILABLE):
                return Unit(name=listed.name, phase=phase)
            unit = await self._read_run(listed, phase)
            reply = await self._manage("ListUnitsByNames", "as", [[listed.name]])
            before, listed = listed, _Listed(*reply.body[0][0])
            if listed[2:5] == before[2:5] and await self._invocation(listed.path) == unit.invocation:
                return unit
        raise ServiceManagerUnavailable(reason=f"{listed.name} changes faster than it can be read")

    async def _invocation(self, path: str) -> str:
        return bytes(await self._get(path, UNIT, "InvocationID")).hex()

    async def _read_run(self, listed: _Listed, phase: UnitPhase) -> Unit:
        return Unit(
            name=listed.name,
            phase=phase,
            invocation=await self._invocation(listed.path),
            started_at=await self._get(listed.path, SERVICE_UNIT, "ExecMainStartTimestamp") / 1e6,
            ready_at=await self._get(listed.path, UNIT, "ActiveEnterTimestamp") / 1e6,
            num_restarts=await self._get(listed.path, SERVICE_UNIT, "NRestarts"),
            result=await self._get(listed.path, SERVICE_UNIT, "Result"),
            status=await self._get(listed.path, SERVICE_UNIT, "StatusText"),
        )

    # -- calls -------------------------------------------------------------------------------------------------------

    async def _operate(self, operation: str, unit: str, member: str, signature: str, body: list[Any]) -> None:
        try:
            await self._manage(member, signature, body)
        except _CallFailed as error:
            raise UnitRefused(unit=unit, operation=operation, reason=str(error)) from error

    async def _manage(self, member: str, signature: str, body: list[Any]) -> Message:
        return await self._call(MANAGER_PATH, MANAGER, member, signature, body)

    async def _get(self, path: str, interface: str, name: str) -> Any:
        reply = await self._call(path, PROPERTIES, "Get", "ss", [interface, name])
        return reply.body[0].value

    async def _call(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> Message:
        """Call a method and wait for its answer.

        Cancel: it may have been done.

        Raises:
            ServiceManagerUnavailable: There was none.
            _CallFailed: The answer is an error.
        """
        from dbus_fast import Message, MessageType

        message = Message(
            destination=SERVICE, path=path, interface=interface, member=member, signature=signature, body=body
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await (await self._connect()).call(message)
        except TimeoutError as error:
            self._disconnect()
            raise ServiceManagerUnavailable(reason=f"no answer within {self._timeout_s:g} s") from error
        except (OSError, EOFError) as error:
            self._disconnect()
            raise ServiceManagerUnavailable(reason=str(error) or type(error).__name__) from error
        if reply is None:
            raise ServiceManagerUnavailable(reason="the connection was closed")
        if reply.message_type is MessageType.ERROR:
            reason = str(reply.body[0]) if reply.body else str(reply.error_name)
            if reply.error_name in _GONE:
                self._disconnect()
                raise ServiceManagerUnavailable(reason=reason)
            raise _CallFailed(reason)
        return reply

    async def _connect(self) -> MessageBus:
        from dbus_fast import BusType
        from dbus_fast.aio import MessageBus
        from dbus_fast.errors import AuthError, InvalidAddressError

        if self._connection is not None and self._connection.connected:
            return self._connection
        self._disconnect()
        self._connection = MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM)
        try:
            await self._connection.connect()
        except (AuthError, InvalidAddressError) as error:
            self._disconnect()
            raise ServiceManagerUnavailable(reason=str(error)) from error
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None


class _CallFailed(Exception):
    """systemd answered with an error."""


def _require_library() -> None:
    try:
        import dbus_fast  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("talking to systemd needs dbus-fast: pip install 'parrot-mq[autoscale]'") from error


def _user_bus(environ: Mapping[str, str]) -> str:
    """Where the bus of this user is."""
    if address := environ.get(SESSION_BUS):
        return address
    if runtime_dir := environ.get("XDG_RUNTIME_DIR"):
        return f"unix:path={runtime_dir}/bus"
    raise ConfigurationError(
        f"the service manager of a user needs a login session: set XDG_RUNTIME_DIR or {SESSION_BUS}"
    )


def _phase(listed: _Listed) -> UnitPhase:
    """What a unit does, from the three states and the job that systemd keeps of it."""
    match listed.active_state, listed.sub_state:
        case (("active" | "reloading" | "refreshing"), _):
            return UnitPhase.STOPPING if listed.job_type == "stop" else UnitPhase.RUNNING
        case "activating", ("auto-restart" | "auto-restart-queued"):
            return UnitPhase.RESTARTING
        case "activating", _:
            return UnitPhase.STARTING
        case "deactivating", _:
            return UnitPhase.STOPPING
        case "failed", _ if listed.load_state == "loaded":
            return UnitPhase.FAILED
    if listed.load_state != "loaded":
        return UnitPhase.UNAVAILABLE
    return UnitPhase.STARTING if listed.job_type == "start" else UnitPhase.OFF

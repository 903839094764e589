"""One attempt to connect to one server, with a reason in words if it fails."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from parrot_mq.bus.config import BusConfig, redact
from parrot_mq.bus.wire_client import WireClient, check_nats_py
from parrot_mq.errors import ConfigurationError, ConnectFailed

__all__ = ["dial"]


class _AttemptFailed(Exception):
    """Breaks nats-py's endless first connection from inside its error callback; carries the cause."""


class _Refused(ConnectFailed):
    """The server refused us; trying again does not help."""

    retryable = False


async def dial(config: BusConfig, server: str, *, on_error: Callable[[str], None]) -> WireClient:
    """Connect to `server`.

    Raises:
        ConnectFailed: It did not take us; `retryable` is False if it refused the credentials.
        ConfigurationError: The credentials or certificates cannot be used.
    """
    check_nats_py()
    client = WireClient(on_error=on_error)
    options = _options(config)
    is_dialing = True

    async def give_up(error: Exception) -> None:
        if is_dialing:  # afterwards nothing may be raised here: it would end the read loop
            raise _AttemptFailed(error)

    try:
        try:
            async with asyncio.timeout(config.connect_timeout_s):
                await client.connect(servers=[server], error_cb=give_up, **options)
        finally:
            is_dialing = False
    except BaseException as error:
        await client.end()
        raise _explain(error, server, config) from (error if isinstance(error, ImportError) else None)
    client.watch()
    return client


def _options(config: BusConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": config.name,
        "allow_reconnect": False,
        "connect_timeout": config.connect_timeout_s,
        "ping_interval": config.ping_interval_s,
        "max_outstanding_pings": 2,
    }
    given = {
        "user": config.user,
        "password": config.password,
        "token": config.token,
        "user_credentials": config.credentials_file,
        "nkeys_seed": config.nkey_seed_file,
    }
    options |= {name: value for name, value in given.items() if value}
    if config.tls_ca_file or config.tls_cert_file:
        options["tls"] = _tls_context(config)
    return options


def _tls_context(config: BusConfig) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=config.tls_ca_file or None)
        if config.tls_cert_file:
            context.load_cert_chain(config.tls_cert_file, config.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the TLS files cannot be used: {error}") from error
    return context


def _explain(error: BaseException, server: str, config: BusConfig) -> BaseException:
    """What to raise for what an attempt ended with."""
    cause = error.args[0] if isinstance(error, _AttemptFailed) else error
    if not isinstance(cause, Exception):
        return error  # a cancellation
    name = redact(server)
    if isinstance(cause, ImportError):
        package = "nats-py[nkeys]" if cause.name == "nkeys" else str(cause)
        return ConfigurationError(f"to connect to {name} install {package!r}")
    text = str(cause)
    if "authorization violation" in text.lower() or "authentication" in text.lower():
        return _Refused(servers=[name], reason="the server refused the credentials")
    if isinstance(cause, ConnectionRefusedError):
        return ConnectFailed(servers=[name], reason="connection refused")
    if isinstance(cause, TimeoutError):
        return ConnectFailed(servers=[name], reason=f"no answer within {config.connect_timeout_s:g} s")
    return ConnectFailed(servers=[name], reason=redact(text) or type(cause).__name__)

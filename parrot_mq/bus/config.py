"""How to reach the bus, and its limits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from parrot_mq.errors import ConfigurationError

__all__ = ["BusConfig", "redact"]

_SECRETS = ("password", "token")
_LOGINS = ("user", "token", "credentials_file", "nkey_seed_file")
_CREDENTIALS = {"nats.creds": "credentials_file", "nats.nk": "nkey_seed_file"}
_SCHEMES = ("nats://", "tls://", "ws://", "wss://")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class BusConfig:
    """Settings of one connection.

    Attributes:
        servers: Addresses of the servers of one cluster, as `nats://host:port` or `tls://host:port`.
        name: How the connection is called in the server's monitoring.
        user: User name, with `password`.
        password: Password of `user`.
        token: Token, instead of a user.
        credentials_file: File with JWT and seed (`.creds`), instead of a user.
        nkey_seed_file: File with an nkey seed, instead of a user.
        tls_ca_file: Certificates of the authority that signed the server's certificate; the system's without it.
        tls_cert_file: Our own certificate, for servers that ask for one, with `tls_key_file`.
        tls_key_file: Key of `tls_cert_file`.
        inbox_prefix: First tokens of the subjects on which answers come; with permissions, one that only this user may
            subscribe to.
        connect_timeout_s: How long the first connection is tried.
        publish_timeout_s: How long a request that can be repeated (storing and reading facts) is repeated.
        max_in_flight: Facts that are being stored at one time; 16 to 128 is fastest.
        ping_interval_s: How often the connection is checked; a silent server is noticed within this time.
        reconnect_wait_s: Pause between attempts to connect again; there is no last attempt.
        replicas: Copies of each stream in a cluster.
        storage: Where streams are kept.
        max_age_s: How long values and blobs are kept.
        dead_max_age_s: How long given-up tasks are kept.
    """

    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    name: str = "parrot-mq"
    user: str = ""
    password: str = ""
    token: str = ""
    credentials_file: str = ""
    nkey_seed_file: str = ""
    tls_ca_file: str = ""
    tls_cert_file: str = ""
    tls_key_file: str = ""
    inbox_prefix: str = "_INBOX"
    connect_timeout_s: float = 3.0
    publish_timeout_s: float = 15.0
    max_in_flight: int = 64
    ping_interval_s: float = 10.0
    reconnect_wait_s: float = 0.25
    replicas: int = 1
    storage: Literal["file", "memory"] = "file"
    max_age_s: float = 24 * 3600.0
    dead_max_age_s: float = 7 * 24 * 3600.0

    def __post_init__(self) -> None:
        _require(bool(self.servers), "servers", self.servers, "one address or more")
        for server in self.servers:
            known = "://" not in server or server.startswith(_SCHEMES)
            _require(known and not any(c.isspace() for c in server), "servers", server, "nats://host:port")
        prefix_ok = all(t and not set(t) & set("*> \t\r\n") for t in self.inbox_prefix.split("."))
        _require(prefix_ok, "inbox_prefix", self.inbox_prefix, "tokens without wildcards, such as _INBOX_alice")
        self._check_numbers()
        _require(self.storage in ("file", "memory"), "storage", self.storage, "file or memory")
        _require(bool(self.password) <= bool(self.user), "password", "…", "a user as well")
        is_pair = bool(self.tls_key_file) == bool(self.tls_cert_file)
        _require(is_pair, "tls_cert_file", self.tls_cert_file, "tls_key_file as well, both or none")
        ways = [bool(self.user), bool(self.token), bool(self.credentials_file), bool(self.nkey_seed_file)]
        _require(sum(ways) <= 1, "user", self.user, "only one of user, token, credentials_file, nkey_seed_file")
        for name in ("credentials_file", "nkey_seed_file", "tls_ca_file", "tls_cert_file", "tls_key_file"):
            path = getattr(self, name)
            _require(not path or Path(path).is_file(), name, path, "a file that exists")

    def __repr__(self) -> str:
        shown = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name not in _SECRETS}
        return redact(f"BusConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})")

    def _check_numbers(self) -> None:
        for name in (
            "connect_timeout_s",
            "publish_timeout_s",
            "ping_interval_s",
            "reconnect_wait_s",
            "max_age_s",
            "dead_max_age_s",
        ):
            value = getattr(self, name)
            _require(0 < value < 1e9, name, value, "seconds, more than 0")
        _require(1 <= self.max_in_flight <= 4096, "max_in_flight", self.max_in_flight, "1 to 4096")
        _require(self.replicas in (1, 3, 5), "replicas", self.replicas, "1, 3 or 5")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **changes: Any) -> Self:
        """Read `PARROT_MQ_<FIELD>` variables; several servers are separated by commas.

        If they name no way to log in, a service manager's credential `nats.creds` or `nats.nk` is taken, unless empty.

        Args:
            environ: The variables; those of this process by default.
            changes: Fields that are set whatever the variables say.

        Raises:
            ConfigurationError: A value is malformed; the sentence names the variable and the expected form.
        """
        environ = os.environ if environ is None else environ
        settings: dict[str, Any] = {}
        for spec in fields(cls):
            variable = f"PARROT_MQ_{spec.name.upper()}"
            if spec.name not in changes and (text := environ.get(variable, "").strip()):
                settings[spec.name] = _parse(variable, text, str(spec.type))
        if not any(name in settings or changes.get(name) for name in _LOGINS):
            settings |= _credentials(environ.get("CREDENTIALS_DIRECTORY", ""))
        try:
            return cls(**settings, **changes)
        except _BadSetting as error:
            raise ConfigurationError(error.as_variable() if error.setting in settings else error.message) from None


def redact(text: str) -> str:
    """`text` without the passwords of addresses in it."""
    return re.sub(r"://[^@/\s]+@", "://…@", text)


def _credentials(folder: str) -> dict[str, str]:
    """What systemd hands to a service by `LoadCredential=`; an empty file stands for none."""
    found = {field: Path(folder, name) for name, field in _CREDENTIALS.items()} if folder else {}
    given = {field: str(path) for field, path in found.items() if path.is_file() and path.read_text().strip()}
    return dict(list(given.items())[:1])


class _BadSetting(ConfigurationError):
    def __init__(self, setting: str, value: object, expected: str) -> None:
        super().__init__(redact(f"bus setting {setting}={value!r}: expected {expected}"))
        self.setting, self.value, self.expected = setting, value, expected

    def as_variable(self) -> str:
        return redact(f"PARROT_MQ_{self.setting.upper()}={self.value!r}: expected {self.expected}")


def _require(is_ok: bool, setting: str, value: object, expected: str) -> None:
    if not is_ok:
        raise _BadSetting(setting, value, expected)


def _parse(variable: str, text: str, kind: str) -> object:
    if kind.startswith("tuple"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    readers: dict[str, tuple[Callable[[str], object], str]] = {
        "int": (int, "a whole number"),
        "float": (float, "seconds"),
    }
    if kind not in readers:
        return text
    read, expected = readers[kind]
    try:
        return read(text)
    except ValueError:
        raise ConfigurationError(f"{variable}={text!r}: expected {expected}") from None

"""What each tenant may use: its share, its quotas, and with whom it shares caches."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from parrot_mq.errors import ConfigurationError, QuotaExceeded
from parrot_mq.messages import TaskAddress
from parrot_mq.types import check_name

__all__ = ["Quotas", "TenantPolicy", "Tenants", "load_tenants"]


class TenantPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one tenant may use.

    Attributes:
        weight: Its share of the workers, in relation to the other tenants that have work: twice the weight, twice the
            tokens.
        max_unfinished: Most unfinished tasks; more are refused with `QuotaExceeded`.
        max_running: Most generations that workers have at a time, of each model; the others wait. 0 sets no limit.
        cache_group: Tenants of one group share cached prefixes. Empty: it shares with nobody, so that nobody can find
            out from the time an answer takes what others have asked.
    """

    weight: float = 1.0
    max_unfinished: int = 100_000
    max_running: int = 0
    cache_group: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigurationError(f"weight of a tenant must be a number above 0, got {self.weight}")
        if self.max_unfinished < 1:
            raise ConfigurationError(f"max_unfinished of a tenant must be at least 1, got {self.max_unfinished}")
        if self.max_running < 0:
            raise ConfigurationError(f"max_running of a tenant must not be negative, got {self.max_running}")
        if self.cache_group:
            check_name("cache group", self.cache_group)


@dataclass(frozen=True)
class Tenants:
    """The policies of all tenants.

    Attributes:
        policies: By tenant.
        default: Of every tenant that is not among them.
    """

    policies: Mapping[str, TenantPolicy] = field(default_factory=dict)
    default: TenantPolicy = field(default_factory=TenantPolicy)

    def __post_init__(self) -> None:
        for name in self.policies:
            check_name("tenant", name)

    def policy(self, tenant: str) -> TenantPolicy:
        """What a tenant may use."""
        return self.policies.get(tenant, self.default)

    def salt(self, tenant: str) -> str:
        """What keeps a tenant's cached prefixes apart from those of others; never the same for two that do not share.

        A colon is in no tenant's name.
        """
        group = self.policy(tenant).cache_group
        return f"group:{group}" if group else tenant


class Quotas:
    """How many unfinished tasks each tenant has, and whether it may have one more."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._unfinished: dict[str, set[TaskAddress]] = {}

    def admit(self, task: TaskAddress, *, is_accepted: bool = False) -> None:
        """Count a task as unfinished; one that is counted already is not counted again.

        Args:
            task: Which one.
            is_accepted: It may have been let in before this object was made, so it is let in however many there are.

        Raises:
            QuotaExceeded: Its tenant has as many as it may have. Nothing has changed.
        """
        unfinished = self._unfinished.get(task.tenant, set())
        limit = self._tenants.policy(task.tenant).max_unfinished
        if task not in unfinished and len(unfinished) >= limit and not is_accepted:
            raise QuotaExceeded(tenant=task.tenant, what="unfinished tasks", limit=limit)
        unfinished.add(task)
        self._unfinished[task.tenant] = unfinished

    def leave(self, task: TaskAddress) -> None:
        """A task is finished; one that is not counted is ignored."""
        unfinished = self._unfinished.get(task.tenant)
        if unfinished is None:
            return
        unfinished.discard(task)
        if not unfinished:
            del self._unfinished[task.tenant]

    def num_unfinished(self, tenant: str) -> int:
        """How many unfinished tasks of a tenant are counted."""
        return len(self._unfinished.get(tenant, ()))


def load_tenants(path: Path) -> Tenants:
    """Read policies from a TOML file: one table for each tenant under `tenants`, and `default` for all others.

        [default]
        max_unfinished = 1000

        [tenants.acme]
        weight = 4
        cache_group = "company"

    Raises:
        ConfigurationError: It cannot be read, or says something that cannot be; the sentence names what and where.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the tenants in {path}: {error}") from error
    if unknown := document.keys() - {"default", "tenants"}:
        names = ", ".join(sorted(unknown))
        raise ConfigurationError(f"{path}: unknown {names}; expected `default` and `tenants.<name>`")
    tables = document.get("tenants", {})
    if not isinstance(tables, dict):
        raise ConfigurationError(f"{path}: `tenants` must hold one table for each tenant")
    policies = {name: _read_policy(table, f"{path}: tenants.{name}") for name, table in tables.items()}
    return Tenants(policies, _read_policy(document.get("default", {}), f"{path}: default"))


def _read_policy(table: Any, where: str) -> TenantPolicy:
    try:
        return msgspec.convert(table, TenantPolicy)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}") from error

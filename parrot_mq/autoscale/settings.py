"""Settings of an autoscaler: which models run in which slots, within which bounds."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from parrot_mq.autoscale.config import PolicyConfig
from parrot_mq.errors import ConfigurationError

__all__ = ["AutoscalerConfig", "ModelSettings", "load_settings"]

MAX_SLOT = 999
"""The polkit rule that is shipped allows three digits."""

NO_LIMIT = 1_000_000
"""By default there are as many workers as there are slots, on all machines."""

_NUMBERS = {field.name: field.type for field in fields(PolicyConfig)}


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """One model on this machine.

    Attributes:
        slots: Where its workers run.
        policy: How many there should be.
    """

    slots: tuple[int, ...]
    policy: PolicyConfig

    def __post_init__(self) -> None:
        if not self.slots or len(set(self.slots)) != len(self.slots):
            raise ConfigurationError(f"slots of a model must be different numbers, at least one, got {self.slots}")
        if not all(0 <= slot <= MAX_SLOT for slot in self.slots):
            raise ConfigurationError(f"slots of a model must be 0 to {MAX_SLOT}, got {self.slots}")


@dataclass(frozen=True, kw_only=True)
class AutoscalerConfig:
    """Settings of an autoscaler, checked when they are made.

    Attributes:
        models: What it starts workers for, by name.
        unit: Name of the unit in a slot; `{slot}` stands for its number.
        tick_s: Seconds between two decisions.
        adopt: Treat workers that others have started as its own.
        retire_timeout_s: A worker that stands by is stopped after so long, also while something runs there. It then
            finishes what it can, and hands over the rest.
        silent_s: A worker that the coordinator has not heard of for so long is not counted.
        hold_s: What somebody else has stopped is not started again for so long.
        quarantine_s: A slot where a start failed is left alone for so long; each further time twice as long.
        max_quarantine_s: But not longer than this.
        recovery_s: A worker that is ready for so long has recovered from all failures.
    """

    models: Mapping[str, ModelSettings]
    unit: str = "parrot-worker@{slot}.service"
    tick_s: float = 2.0
    adopt: bool = False
    retire_timeout_s: float = 300.0
    silent_s: float = 30.0
    hold_s: float = 60.0
    quarantine_s: float = 60.0
    max_quarantine_s: float = 1800.0
    recovery_s: float = 600.0

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigurationError("an autoscaler needs at least one model: add a table [models.NAME] with its slots")
        if self.unit.count("{slot}") != 1 or not self.unit.endswith(".service"):
            raise ConfigurationError(f"unit must be the name of a service with {{slot}} in it, got {self.unit!r}")
        if not 0.1 <= self.tick_s <= 60:
            raise ConfigurationError(f"tick_s must be 0.1 to 60 seconds, got {self.tick_s}")
        for name in ("retire_timeout_s", "silent_s", "hold_s", "quarantine_s", "max_quarantine_s", "recovery_s"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, got {getattr(self, name)}")
        slots = [slot for model in self.models.values() for slot in model.slots]
        if twice := sorted({slot for slot in slots if slots.count(slot) > 1}):
            raise ConfigurationError(f"each slot runs one model; more than one have {', '.join(map(str, twice))}")

    def unit_of(self, slot: int) -> str:
        """Name of the unit in a slot."""
        return self.unit.replace("{slot}", str(slot))


def load_settings(path: Path) -> AutoscalerConfig:
    """Read settings from a TOML file.

        tick_s = 2

        [policy]                # for all models, as `PolicyConfig`
        idle_to_zero_s = 600

        [models.small]
        slots = "0-3"           # or a list: [0, 1, 5]
        min_workers = 1         # of all machines together; and all else of `PolicyConfig`

    Raises:
        ConfigurationError: It cannot be read, or says something that cannot be; the sentence names what and where.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"cannot read the settings of the autoscaler in {path}: {error}") from error
    try:
        return _read_settings(document)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _read_settings(document: dict[str, Any]) -> AutoscalerConfig:
    types = {each.name: each.type for each in fields(AutoscalerConfig)} | {"policy": "table", "models": "table"}
    _check(document, types, "")
    common = document.pop("policy", {})
    _check(common, _NUMBERS, "policy.")
    tables = document.pop("models", {})
    models = {name: _read_model(table, common, f"models.{name}.") for name, table in tables.items()}
    return AutoscalerConfig(models=models, **document)


def _read_model(table: Any, common: dict[str, Any], where: str) -> ModelSettings:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{where[:-1]} must be a table")
    _check(table, {**_NUMBERS, "slots": "slots"}, where)
    settings = dict(table)
    slots = _read_slots(settings.pop("slots", ()), where)
    return ModelSettings(slots=slots, policy=PolicyConfig(**{"max_workers": NO_LIMIT, **common, **settings}))


_EXPECTED: dict[object, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a text"),
    "table": ((dict,), "a table"),
    "slots": ((str, list), 'slots, such as "0-3" or [0, 1, 5]'),
}


def _check(table: Mapping[str, Any], types: Mapping[str, Any], where: str) -> None:
    """Names and types of a table."""
    for name, value in table.items():
        if name not in types:
            raise ConfigurationError(f"{where}{name} is not a setting; known are {', '.join(sorted(types))}")
        kinds, expected = _EXPECTED[types[name]]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ConfigurationError(f"{where}{name} must be {expected}, got {value!r}")


def _read_slots(value: str | list[Any] | tuple[()], where: str) -> tuple[int, ...]:
    """`"0-3,7"` or a list of numbers."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(map(str, value))
    slots: list[int] = []
    for part in parts:
        first, dash, last = part.partition("-")
        if not first.isdecimal() or not (last.isdecimal() if dash else True):
            raise ConfigurationError(f'{where}slots must be such as "0-3" or [0, 1, 5], got {value!r}')
        slots += range(int(first), min(int(last if dash else first), MAX_SLOT + 1) + 1)
    return tuple(slots)

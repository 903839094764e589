"""Slots: the numbers by which a service manager tells the workers of one machine apart."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import MutableMapping
from pathlib import Path

from parrot_mq.errors import ConfigurationError
from parrot_mq.types import WorkerId

__all__ = ["claim_gpu", "slot_worker_id"]

DRIVER = Path("/proc/driver/nvidia/gpus")
VISIBLE = "CUDA_VISIBLE_DEVICES"


def slot_worker_id(slot: int, host: str = "") -> WorkerId:
    """The worker of a slot has the same name after each start; it names machine and slot."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", (host or socket.gethostname()).partition(".")[0])
    return WorkerId(f"{host[:52]}-slot-{slot}")


def claim_gpu(slot: int, environ: MutableMapping[str, str] | None = None, driver: Path = DRIVER) -> str:
    """Let CUDA see the GPU of a slot alone: the one whose device is `/dev/nvidiaN`; to be called before it is loaded.

    The driver numbers GPUs in more than one way, so the GPU is named by its UUID. If `CUDA_VISIBLE_DEVICES` is set
    already it stays, and without a driver nothing happens: slots of a machine without GPUs are just numbers.

    Returns: the UUID, or an empty text.

    Raises:
        ConfigurationError: There are GPUs, but none is this one.
    """
    environ = os.environ if environ is None else environ
    if environ.get(VISIBLE):
        return ""
    gpus = dict(_read_gpus(driver))
    if not gpus:
        return ""
    if slot not in gpus:
        there = ", ".join(map(str, sorted(gpus)))
        raise ConfigurationError(f"there is no GPU for slot {slot}: the driver has /dev/nvidiaN for N in {there}")
    environ[VISIBLE] = gpus[slot]
    return gpus[slot]


def _read_gpus(driver: Path) -> list[tuple[int, str]]:
    """Number of its device and UUID of each GPU."""
    found = []
    for file in sorted(driver.glob("*/information")):
        facts = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
        minor, identity = facts.get("Device Minor", "").strip(), facts.get("GPU UUID", "").strip()
        if minor.isdecimal() and identity:
            found.append((int(minor), identity))
    return found

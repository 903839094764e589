"""Slots: a name and a GPU for each worker of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from parrot_workers.slots import claim_gpu, slot_worker_id

from parrot_mq.errors import ConfigurationError
from parrot_mq.types import check_name


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """What the driver says of two GPUs: it has numbered their devices against the order of the bus."""
    for bus, minor, identity in (("0000:18:00.0", 1, "GPU-aaaa"), ("0000:2a:00.0", 0, "GPU-bbbb")):
        folder = tmp_path / bus
        folder.mkdir()
        lines = ["Model: \t NVIDIA H200", f"GPU UUID: \t {identity}", f"Device Minor: \t {minor}", "GPU Excluded:\t No"]
        (folder / "information").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_slot_has_the_gpu_whose_device_has_its_number(driver: Path) -> None:
    environ: dict[str, str] = {}
    assert claim_gpu(0, environ, driver) == "GPU-bbbb"
    assert environ == {"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}
    assert claim_gpu(1, {}, driver) == "GPU-aaaa"


def test_a_slot_without_a_gpu_is_named_with_those_that_have_one(driver: Path) -> None:
    with pytest.raises(ConfigurationError, match="no GPU for slot 2: the driver has /dev/nvidiaN for N in 0, 1"):
        claim_gpu(2, {}, driver)


def test_what_the_operator_has_chosen_stays(driver: Path) -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "GPU-cccc"}
    assert claim_gpu(0, environ, driver) == ""
    assert environ == {"CUDA_VISIBLE_DEVICES": "GPU-cccc"}


def test_without_a_driver_slots_are_just_numbers(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert claim_gpu(7, environ, tmp_path / "nothing") == ""
    assert environ == {}


@pytest.mark.parametrize("host", ["gpu7.example.org", "weiß", "a" * 200, ""])
def test_a_slot_has_a_name_that_the_bus_takes(host: str) -> None:
    name = slot_worker_id(3, host)
    assert check_name("worker", name) == name
    assert name.endswith("-slot-3")

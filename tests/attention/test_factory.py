"""Which backend runs where."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from parrot_workers.attention.cpu import CPUBackend
from parrot_workers.attention.factory import create_backend
from parrot_workers.attention.reference import ReferenceBackend

from parrot_mq.errors import ConfigurationError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@dataclass(frozen=True)
class Heads:
    num_qo_heads: int = 8
    num_kv_heads: int = 4
    head_dim: int = 64


def test_a_cpu_gets_its_own_backend() -> None:
    assert isinstance(create_backend("auto", device=CPU, layers=[Heads()]), CPUBackend)
    assert isinstance(create_backend("cpu", device=CPU, layers=[Heads()]), CPUBackend)


@pytest.mark.parametrize("device", [CPU, GPU])
def test_the_reference_runs_anywhere(device: torch.device) -> None:
    assert isinstance(create_backend("reference", device=device, layers=[Heads()]), ReferenceBackend)


@pytest.mark.parametrize(("name", "device"), [("cpu", GPU), ("flashinfer", CPU)])
def test_a_backend_on_another_device_is_refused(name: str, device: torch.device) -> None:
    with pytest.raises(ConfigurationError, match="runs on a device of kind"):
        create_backend(name, device=device, layers=[Heads()])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'flash': use auto, reference, cpu or flashinfer"):
        create_backend("flash", device=CPU, layers=[])


@pytest.mark.parametrize(
    ("heads", "dtype"),
    [(Heads(head_dim=80), torch.bfloat16), (Heads(num_kv_heads=3), None), (Heads(), torch.float32)],
)
def test_flashinfer_refuses_layers_that_it_has_no_kernel_for(heads: Heads, dtype: torch.dtype | None) -> None:
    with pytest.raises(ConfigurationError):
        create_backend("auto", device=GPU, layers=[Heads(), heads], dtype=dtype)


@pytest.mark.skipif(importlib.util.find_spec("flashinfer") is not None, reason="FlashInfer is installed")
def test_without_flashinfer_the_extra_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"parrot-mq\[gpu\]"):
        create_backend("auto", device=GPU, layers=[Heads()])


def test_the_package_and_the_plan_load_without_torch() -> None:
    code = "import sys, parrot_workers.attention; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})

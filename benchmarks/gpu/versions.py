"""What is on the machine, whether FlashInfer finds its kernels, and the ceilings that speed is measured against."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess

import torch

from benchmarks.gpu.model import DEVICE, IS_REHEARSAL, synchronize
from benchmarks.gpu.stage import tell, timed

PACKAGES = ("torch", "triton", "transformers", "tokenizers", "flashinfer-python", "apache-tvm-ffi", "numpy", "msgspec")


def main() -> None:
    tell("machine", **_machine())
    tell("packages", **{name: _version(name) for name in PACKAGES})
    tell("ceilings", **_ceilings())
    if not IS_REHEARSAL:
        _load_kernels()


def _machine() -> dict[str, object]:
    facts: dict[str, object] = {"python": platform.python_version(), "cpus": os.cpu_count(), "cuda": torch.version.cuda}
    if DEVICE == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count}
        facts["memory_gib"] = round(properties.total_memory / 2**30, 1)
        facts["driver"] = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        facts["nvcc"] = _output("nvcc", "--version").partition("release ")[2].partition(",")[0]
    # Without it FlashInfer compiles an addon for torch first.
    facts["has_dlpack_exchange"] = hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
    return facts


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _ceilings() -> dict[str, float]:
    """Bytes read and written by a copy, and floating point operations of a matrix product, per second."""
    size, side = (1 << 24, 512) if IS_REHEARSAL else (1 << 32, 8192)
    source = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    a = torch.randn(side, side, dtype=torch.bfloat16, device=DEVICE)
    copy_s = _best_s(lambda: target.copy_(source))
    product_s = _best_s(lambda: a @ a)
    return {"copy_bytes_per_s": 2 * size / copy_s, "matmul_flop_per_s": 2 * side**3 / product_s}


def _best_s(function: object) -> float:
    def run() -> None:
        function()  # type: ignore[operator]
        synchronize()

    run()
    return min(timed(run)[0] for _ in range(10))


def _load_kernels() -> None:
    """Load what the backend uses; the seconds tell whether they were carried or compiled."""
    from benchmarks.build_kernels import CASCADE, VARIANTS, module_spec

    for name in (CASCADE, *VARIANTS):
        spec = module_spec(name)
        if spec.is_aot or name in (CASCADE, "bf16-128", "bf16-64"):
            seconds, _ = timed(spec.build_and_load)
            tell("kernel", name=name, is_carried=spec.is_aot, load_s=round(seconds, 2))


if __name__ == "__main__":
    main()

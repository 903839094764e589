"""The models that are measured: shapes of known ones, with random weights that are made where they are used.

Random weights cost what trained ones cost. They are normal numbers, never zeros: a GPU that multiplies zeros takes less
power and runs faster than it ever would.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

import torch
from parrot_workers.models import LoadedModel
from parrot_workers.models.prepare import prepare
from parrot_workers.tiny_model import checkpoint_path

__all__ = ["DEVICE", "GPU_ATTENTION", "IS_REHEARSAL", "Shape", "main_shape", "make_loaded", "make_model", "synchronize"]

IS_REHEARSAL: Final = bool(os.environ.get("PARROT_BENCH_REHEARSAL"))
"""On a CPU, with a tiny model: to see that everything runs before a GPU is asked for."""

DEVICE: Final = "cpu" if IS_REHEARSAL else "cuda"
GPU_ATTENTION: Final = "cpu" if IS_REHEARSAL else "flashinfer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A Llama.

    Attributes:
        name: The model that has this shape.
        settings: Of its configuration.
    """

    name: str
    settings: dict[str, Any]

    @property
    def kv_bytes_per_token(self) -> int:
        """Of all layers, in bfloat16."""
        one = self.settings
        return int(2 * 2 * one["num_hidden_layers"] * one["num_key_value_heads"] * one["head_dim"])


LLAMA_8B: Final = Shape(
    name="Llama-3.1-8B",
    settings={
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
)
TINY: Final = Shape(
    name="tiny",
    settings={
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 512,
    },
)
MAX_CONTEXT_TOKENS: Final = 8192


def main_shape() -> Shape:
    """What the figures are about."""
    return TINY if IS_REHEARSAL else LLAMA_8B


def synchronize() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def make_model(shape: Shape) -> Any:
    """A model of transformers in bfloat16, made on the device."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        **shape.settings, max_position_embeddings=MAX_CONTEXT_TOKENS, initializer_range=0.02, tie_word_embeddings=False
    )
    make: Any = AutoModelForCausalLM.from_config
    with torch.device(DEVICE):
        model = make(config, dtype=torch.bfloat16)
    assert model.lm_head.weight.std() > 0.01
    return model.to(DEVICE).eval()


def make_loaded(shape: Shape) -> LoadedModel:
    """The model as the engine takes it. It generates tokens that nobody has to read: the tokenizer is another one's."""
    from transformers import AutoTokenizer

    model = make_model(shape)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    vocab_size = shape.settings["vocab_size"]
    layers, short_pass = prepare(
        model, vocab_size, MAX_CONTEXT_TOKENS, is_fused=True, is_packed=False, report=_tell_nobody
    )
    return LoadedModel(
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(checkpoint_path(), local_files_only=True),
        name=shape.name,
        eos_token_ids=frozenset(),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=vocab_size,
        layers=layers,
        short_pass=short_pass,
        num_parameters=num_parameters,
    )


def _tell_nobody(stage: str, share: float) -> None:
    pass

"""The architecture and the stages of training: every number of the recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from parrot_workers.tiny_model.documents import Mixture
from parrot_workers.tiny_model.records import RecordShape
from parrot_workers.tiny_model.tokenizer import BOS_ID, EOS_ID, PAD_ID, VOCAB_SIZE

if TYPE_CHECKING:
    from transformers import LlamaConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A part of the training with its own data and learning rate.

    Attributes:
        mixture: The data.
        steps: Number of optimizer steps.
        peak: Learning rate, as a multiple of the base rates, after the first steps.
        decay_share: Share of the steps, at the end, in which the rate falls linearly.
        warmup_steps: Steps in which the rate rises linearly.
    """

    mixture: Mixture
    steps: int
    peak: float = 1.0
    decay_share: float = 0.0
    warmup_steps: int = 30

    def rate(self, step: int) -> float:
        """Return the multiple of the base learning rates at ``step`` of this stage."""
        rising = min(1.0, (step + 1) / self.warmup_steps)
        decay_steps = max(1, round(self.steps * self.decay_share))
        falling = min(1.0, (self.steps - step) / decay_steps) if self.decay_share else 1.0
        return self.peak * min(rising, falling)


MUON_RATE: Final = 0.02
ADAMW_RATE: Final = 3e-3
AVERAGE_DECAY: Final = 0.985

STAGES: Final[tuple[Stage, ...]] = (
    Stage(
        mixture=Mixture(
            weights={"get": 3, "copy": 0.6, "larger": 1.5, "upper": 0.8, "join": 0.8, "equal": 2},
            shape=RecordShape(max_bytes=150, max_fields=8, max_questions=5),
            row_tokens=256,
            rows=32,
        ),
        steps=1000,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 4, "get": 2, "larger": 1.5, "upper": 0.4, "join": 0.4, "equal": 4},
            shape=RecordShape(max_bytes=110, min_fields=2, max_fields=6, max_questions=6),
            row_tokens=256,
            rows=32,
            rest_weight=0.03,
        ),
        steps=500,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 0.5, "get": 3, "larger": 1.5, "upper": 0.8, "join": 1, "equal": 3},
            shape=RecordShape(max_bytes=440, max_fields=14, max_questions=8),
            row_tokens=640,
            rows=13,
            rest_weight=0.03,
        ),
        steps=500,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 0.5, "get": 2.5, "copy": 0.5, "larger": 3, "upper": 1, "join": 1.2, "equal": 3.5},
            shape=RecordShape(max_bytes=440, max_fields=14, max_questions=8),
            row_tokens=640,
            rows=13,
            rest_weight=0.03,
        ),
        steps=500,
        peak=0.65,
        decay_share=0.9,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 0.3, "get": 2, "copy": 0.4, "larger": 5, "upper": 0.7, "join": 0.7, "equal": 6},
            shape=RecordShape(max_bytes=440, max_fields=14, max_questions=5),
            row_tokens=640,
            rows=13,
            rest_weight=0.03,
        ),
        steps=450,
        peak=0.42,
        decay_share=0.9,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 0.3, "get": 2.2, "copy": 0.4, "larger": 7, "upper": 0.6, "join": 0.8, "equal": 6},
            shape=RecordShape(max_bytes=440, max_fields=14, max_questions=5),
            row_tokens=640,
            rows=13,
            rest_weight=0.03,
        ),
        steps=450,
        peak=0.22,
        decay_share=0.8,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 0.3, "get": 3, "copy": 0.4, "larger": 4, "upper": 0.6, "join": 0.8, "equal": 5},
            shape=RecordShape(max_bytes=440, max_fields=14, max_questions=7),
            row_tokens=640,
            rows=13,
            rest_weight=0.03,
        ),
        steps=1600,
        peak=0.6,
        decay_share=0.85,
    ),
    Stage(
        mixture=Mixture(
            weights={"lookup": 0.2, "get": 2, "copy": 0.4, "larger": 9, "upper": 0.5, "join": 0.6, "equal": 4},
            shape=RecordShape(max_bytes=200, max_fields=8, max_questions=5),
            row_tokens=256,
            rows=32,
            rest_weight=0.03,
        ),
        steps=360,
        peak=0.35,
        decay_share=0.9,
    ),
)
"""Copying first, then finding, then records of up to 440 bytes."""


def model_config() -> LlamaConfig:
    """Return the architecture: six layers, four query heads of 64 on two key-value heads."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )

"""A tiny model that answers: a byte-level Llama checkpoint, its training data, training and evaluation.

The checkpoint is loaded by the same code as any other one::

    model = AutoModelForCausalLM.from_pretrained(checkpoint_path())
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_path())
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["checkpoint_path"]


def checkpoint_path() -> Path:
    """Return the folder of the checkpoint that comes with the package."""
    return Path(__file__).parent / "checkpoint"

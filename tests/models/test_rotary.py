"""What a text becomes does not depend on how long others in its batch are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from parrot_workers.attention.reference import ReferenceBackend
from parrot_workers.models import load_model

from tests.models.packing import PackedReader
from tests.workers.checkpoints import load_plain, save_checkpoint, transformers

_SHAPE = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def _longrope() -> Any:
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 4.0, 8.0, 16.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 40, **factors}
    shape = {**_SHAPE, "max_position_embeddings": 160, "original_max_position_embeddings": 40}
    return transformers.Phi3Config(**shape, rope_parameters=rope)


def _dynamic() -> Any:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    return transformers.LlamaConfig(**_SHAPE, max_position_embeddings=40, rope_parameters=rope)


@pytest.mark.parametrize("make_config", [_longrope, _dynamic])
def test_the_context_ends_where_frequencies_would_change(tmp_path: Path, make_config: Any) -> None:
    folder = save_checkpoint(tmp_path / "model", make_config())
    model, plain = load_model(folder), load_plain(folder)
    assert model.max_context_tokens == 40
    text = torch.randint(256, (80,), generator=torch.Generator().manual_seed(0))
    reader = PackedReader(model, ReferenceBackend(), num_texts=2, max_tokens=80)
    # The second text is longer than the context; an engine would not let it in.
    found, _ = reader.read([(0, text[:40].tolist()), (1, text.tolist())])
    with torch.inference_mode():
        expected = plain(input_ids=text[None, :40], use_cache=False).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_other_frequencies_are_left_alone(tmp_path: Path) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 40}
    rope.update(low_freq_factor=1.0, high_freq_factor=4.0)
    config = transformers.LlamaConfig(**_SHAPE, max_position_embeddings=160, rope_parameters=rope)
    model = load_model(save_checkpoint(tmp_path / "model", config))
    assert model.max_context_tokens == 160
    assert model.model.model.rotary_emb.rope_type == "llama3"

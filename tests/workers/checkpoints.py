"""Small random checkpoints of several families, written with `save_pretrained` as real ones are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as untyped_transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

__all__ = ["FAMILIES", "byte_tokenizer", "save_checkpoint", "sentencepiece_tokenizer"]

transformers: Any = untyped_transformers  # its classes are built at import, so their types say little

VOCAB_SIZE = 264
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    # Large, so that logits differ by far more than rounding does.
    "initializer_range": 0.5,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def _llama() -> Any:
    return transformers.LlamaConfig(**_SHAPE)


def _qwen3() -> Any:
    return transformers.Qwen3Config(**_SHAPE, tie_word_embeddings=True)


def _mistral() -> Any:
    return transformers.MistralConfig(**_SHAPE, sliding_window=24)


def _gemma2() -> Any:
    return transformers.Gemma2Config(**_SHAPE, sliding_window=24, query_pre_attn_scalar=8)


def _mixtral() -> Any:
    return transformers.MixtralConfig(**_SHAPE, num_local_experts=4, num_experts_per_tok=2)


def _gpt2() -> Any:
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "initializer_range": 0.5}
    return transformers.GPT2Config(vocab_size=VOCAB_SIZE, bos_token_id=256, eos_token_id=257, **shape)


FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen3": _qwen3,
    "mistral": _mistral,
    "gemma2": _gemma2,
    "mixtral": _mixtral,
    "gpt2": _gpt2,
}
"""How to make a config of each family; Mistral and Gemma 2 have a sliding window that the tests' prompts exceed."""


def byte_tokenizer() -> Any:
    """One token per byte of UTF-8, id = byte; special tokens from 256 on."""
    characters = [character for _, character in sorted(_byte_characters())]
    tokenizer = Tokenizer(models.BPE(vocab={character: byte for byte, character in enumerate(characters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<bos>", "<eos>", "<pad>")])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def sentencepiece_tokenizer() -> Any:
    """Words that carry their space, and bytes for what is no word: as the tokenizers of Llama 2 and Gemma work."""
    pieces = ["<bos>", "<eos>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces += [*letters, *(f"▁{letter}" for letter in letters), "he", "▁the"]
    merges = [*(("▁", letter) for letter in letters), ("h", "e"), ("▁t", "he")]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<bos>", "<eos>", "<pad>")])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def save_checkpoint(folder: Path, config: Any, *, seed: int = 0) -> Path:
    """Write a random model of `config` with the byte tokenizer."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def _byte_characters() -> Iterator[tuple[int, str]]:
    """GPT-2's table: each byte has a visible character that stands for it."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    yield from ((byte, chr(byte)) for byte in visible)
    yield from ((byte, chr(256 + index)) for index, byte in enumerate(hidden))

"""Small random checkpoints of several families, written with `save_pretrained` as real ones are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers as untyped_transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

__all__ = ["FAMILIES", "byte_tokenizer", "load_plain", "save_checkpoint", "sentencepiece_tokenizer"]

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


def _make(name: str, **changes: Any) -> Callable[[], Any]:
    """How to make a config of transformers' class `<name>Config`."""
    return lambda: getattr(transformers, f"{name}Config")(**{**_SHAPE, **changes})


_WINDOW = {"sliding_window": 24}
_ONE_OF_EACH = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _make("Llama"),
    "qwen3": _make("Qwen3", tie_word_embeddings=True),
    "mistral": _make("Mistral", **_WINDOW),
    "gemma2": _make("Gemma2", **_WINDOW, query_pre_attn_scalar=8),
    "mixtral": _make("Mixtral", num_local_experts=4, **_EXPERTS),
    "gpt2": _make("GPT2", n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "qwen2": _make("Qwen2", use_sliding_window=True, **_ONE_OF_EACH),
    "qwen3_moe": _make("Qwen3Moe", num_experts=4, **_EXPERTS),
    "gemma3": _make("Gemma3Text", **_ONE_OF_EACH, query_pre_attn_scalar=4),
    "phi3": _make("Phi3", **_WINDOW),
    "phi": _make("Phi"),
    "olmo2": _make("Olmo2"),
    "smollm3": _make("SmolLM3", no_rope_layers=[1, 0]),
    "granite": _make("Granite", residual_multiplier=0.5, embedding_multiplier=2.0, attention_multiplier=0.3),
    "cohere2": _make("Cohere2", **_ONE_OF_EACH),
    "gpt_neox": _make("GPTNeoX"),
    "starcoder2": _make("Starcoder2", **_WINDOW),
    "glm4": _make("Glm4"),
    "exaone4": _make("Exaone4", **_ONE_OF_EACH),
    "nanochat": _make("NanoChat"),
    "opt": _make("OPT", ffn_dim=64, word_embed_proj_dim=32),
}
"""How to make a config of each family; those with a sliding window have one that the tests' prompts exceed."""


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


def load_plain(folder: Path) -> Any:
    """The model as transformers alone runs it, in float32: the oracle.

    Its eager attention is the only one that does all that every family asks for; others leave out softcaps.
    """
    auto = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, local_files_only=True, dtype="float32", attn_implementation="eager").eval()


def _byte_characters() -> Iterator[tuple[int, str]]:
    """GPT-2's table: each byte has a visible character that stands for it."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    hidden = [byte for byte in range(256) if byte not in visible]
    yield from ((byte, chr(byte)) for byte in visible)
    yield from ((byte, chr(256 + index)) for index, byte in enumerate(hidden))

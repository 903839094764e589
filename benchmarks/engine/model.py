"""Make the model of the benchmark: a Llama of 88 M parameters with random weights, and a tokenizer of 8,192 entries.

Random weights cost what trained ones cost, and nothing has to be downloaded. Runs in the environment of the worker.

    python -m benchmarks.engine.model FOLDER
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

HIDDEN, INTERMEDIATE, NUM_LAYERS = 768, 2048, 12
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 12, 4, 64
VOCAB_SIZE = 8192
SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>")
NUM_MERGES = VOCAB_SIZE - 256 - len(SPECIAL_TOKENS)
BOS_ID, EOS_ID, PAD_ID = range(VOCAB_SIZE - len(SPECIAL_TOKENS), VOCAB_SIZE)
SEED = 3


def make_model(folder: Path) -> None:
    """Write the checkpoint in float32, the same bytes each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    config = LlamaConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=INTERMEDIATE,
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=4096,
        initializer_range=0.02,
        tie_word_embeddings=False,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
        dtype=torch.float32,
    )
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).save_pretrained(folder)
    _save_tokenizer(folder)


def _save_tokenizer(folder: Path) -> None:
    """Byte-level BPE that needs no text to learn from: bytes, then pairs of printable characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = _byte_characters()
    printable = characters[0x21:0x7F]
    merges = list(islice(((left, right) for left in printable for right in printable), NUM_MERGES))
    tokens = characters + ["".join(pair) for pair in merges] + list(SPECIAL_TOKENS)
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)


def _byte_characters() -> list[str]:
    """The printable character that stands for each byte. Source: `bytes_to_unicode` of the GPT-2 encoder."""
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


if __name__ == "__main__":
    make_model(Path(sys.argv[1]))

"""The byte tokenizer: a token's id is the byte's value; special tokens follow from 256 on.

Nothing is added to a text and nothing is normalised, so that any text comes back byte for byte.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BOS_ID: Final = 256
EOS_ID: Final = 257
PAD_ID: Final = 258
VOCAB_SIZE: Final = 259
SPECIAL_TOKENS: Final[dict[str, int]] = {"<bos>": BOS_ID, "<eos>": EOS_ID, "<pad>": PAD_ID}


def byte_characters() -> list[str]:
    """Return the printable character that stands for each byte in byte-level vocabularies.

    Source: ``bytes_to_unicode`` of the GPT-2 encoder: printable Latin-1 characters stand for themselves, the others
    for the characters from U+0100 on.
    """
    kept = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def save_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` into ``folder``."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)

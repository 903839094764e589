"""Write the benchmark's checkpoint as GGUF, the format of llama.cpp. Runs in the environment of llama.cpp.

python -m benchmarks.engine.convert_gguf FOLDER FILE float32|bfloat16
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]
import numpy as np

TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def convert(folder: Path, file: Path, dtype: str) -> None:
    """Write weights and sizes. There is no tokenizer in it: the benchmark speaks token ids."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    _write_sizes(writer, config)
    for name, tensor in _read_safetensors(folder / "model.safetensors"):
        if "q_proj" in name or "k_proj" in name:
            tensor = _interleave(tensor, config["head_dim"])
        if dtype == "bfloat16" and tensor.ndim == 2:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(_name(name), gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_name(name), tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def _read_safetensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each float32 tensor. The format: length of the header, header as JSON, data."""
    data = np.memmap(file, np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        yield name, data[begin:end].view(np.float32).reshape(entry["shape"])


def _interleave(weight: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorder the rows of each head: GGUF rotates neighbours, Hugging Face halves."""
    halves = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight` there."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return f"{TENSORS[stem]}.weight"
    index, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{index}.{TENSORS[part]}.weight"


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])

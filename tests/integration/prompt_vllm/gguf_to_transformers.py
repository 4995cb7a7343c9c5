"""Turns the GGUF file of the catalogue into a folder that vLLM reads: python gguf_to_transformers.py MODEL.gguf FOLDER.

The weights are taken out of their 4-bit blocks: the same numbers, in bfloat16.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def convert(source: Path, folder: Path) -> None:
    """Writes config, tokenizer with its chat template, and safetensors weights of a Llama with tied embeddings."""
    reader = gguf.GGUFReader(source)
    config = _config(reader)
    weights = {}
    for tensor in reader.tensors:
        array = gguf.dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.removesuffix(".weight")
        if name in OUTER:
            target = OUTER[name]
        else:
            _, layer, kind = name.split(".")
            target = f"model.layers.{layer}.{LAYER[kind]}"
            if kind in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if kind == "attn_q" else config.num_key_value_heads
                array = _unpermuted(array, heads)
        weights[f"{target}.weight"] = torch.from_numpy(np.array(array)).to(torch.bfloat16).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    config.save_pretrained(folder)


def _unpermuted(array: np.ndarray, heads: int) -> np.ndarray:
    """Undoes the order of rows that llama.cpp wants for its rotary embedding."""
    rows, columns = array.shape
    return array.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _config(reader: gguf.GGUFReader) -> LlamaConfig:
    def field(name: str) -> int:
        return reader.fields[name].contents()

    config = LlamaConfig(
        vocab_size=field("llama.vocab_size"),
        hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"),
        num_hidden_layers=field("llama.block_count"),
        num_attention_heads=field("llama.attention.head_count"),
        num_key_value_heads=field("llama.attention.head_count_kv"),
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("llama.rope.freq_base")},
        bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"),
        pad_token_id=field("tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    config.architectures = ["LlamaForCausalLM"]
    return config


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))

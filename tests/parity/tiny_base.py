"""Tiny language models for the base class, in published formats: Llama, Gemma, Gemma 2, Qwen 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.tiny_files import decoder_shapes, write_bytes_tokenizer, write_model, write_pieces_tokenizer

SIZES = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
    "attention_dropout": 0.0, "rope_theta": 10000.0, "use_cache": True,
}  # fmt: skip


def llama(folder: Path) -> Path:
    """Llama 2's tokenizer: a space before each text, line ends as bytes; the padding token is the unknown one."""
    size = write_pieces_tokenizer(folder, kind="LlamaTokenizer", side="right")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES, "vocab_size": size, "hidden_act": "silu",
        "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1,
    }  # fmt: skip
    return write_model(folder, config, decoder_shapes(config), seed=11)


def llama3(folder: Path) -> Path:
    """A byte-level tokenizer with a begin token; grouped heads, an untied head."""
    size = write_bytes_tokenizer(folder, kind="PreTrainedTokenizerFast", bos=True, side="right")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", **SIZES, "vocab_size": size, "hidden_act": "silu",
        "tie_word_embeddings": False, "bos_token_id": size - 1, "eos_token_id": size - 4, "rope_scaling": None,
        "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "rope_theta": 500000.0,
    }  # fmt: skip
    return write_model(folder, config, decoder_shapes(config), seed=12)


def gemma(folder: Path) -> Path:
    """As bge-reranker-v2-gemma: heads wider than their share, norms that add one, a tied head."""
    size = write_pieces_tokenizer(folder, kind="GemmaTokenizer", side="left")
    config = {
        "architectures": ["GemmaForCausalLM"], "model_type": "gemma", **SIZES, "vocab_size": size, "head_dim": 16,
        "num_key_value_heads": 1, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh",
        "tie_word_embeddings": True, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "attention_bias": False,
        "rope_scaling": None,
    }  # fmt: skip
    return write_model(folder, {**config, "unit_norms": False}, decoder_shapes(config), seed=13)


def qwen2(folder: Path) -> Path:
    """No begin token, biases on queries, keys and values."""
    size = write_bytes_tokenizer(folder, kind="Qwen2Tokenizer", side="left")
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **SIZES, "vocab_size": size, "hidden_act": "silu",
        "tie_word_embeddings": True, "bos_token_id": size - 3, "eos_token_id": size - 3, "use_sliding_window": False,
        "sliding_window": 2048, "max_window_layers": 3,
    }  # fmt: skip
    return write_model(folder, config, decoder_shapes(config, biases=("q_proj", "k_proj", "v_proj")), seed=14)


MODELS = {"llama": llama, "llama3": llama3, "gemma": gemma, "qwen2": qwen2}

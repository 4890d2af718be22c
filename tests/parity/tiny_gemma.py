"""Tiny models in the published format of bge-reranker-v2.5-gemma2-lightweight, the same bytes in any environment."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.parity.tiny_files import decoder_shapes, write_model, write_pieces_tokenizer
from tests.parity.tiny_minicpm import cut

BLOCKS, START_LAYER = 6, 2
NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


def costwise_gemma(folder: Path, *, shards: int = 2, seed: int = 31, **others: Any) -> Path:
    """Write a Gemma 2 with a head per layer and its tokenizer.

    Args:
        shards: files that its weights lie in.
        others: further keys of the configuration, in the place of the usual ones.
    """
    layered = {"layer_sep": 1, "layer_wise": True, "start_layer": START_LAYER}
    config = config_of(folder, "CostWiseGemmaForCausalLM", "cost_wise_gemma", {**layered, **others})
    heads = range(config["start_layer"], BLOCKS + 1, config["layer_sep"])
    names = [f"lm_head.{place}.linear_head.weight" for place in range(len(heads))]
    shapes = {**decoder_shapes(config, norms=NORMS), **dict.fromkeys(names, (1, config["hidden_size"]))}
    write_model(folder, {**config, "unit_norms": False}, shapes, seed=seed, scale=0.5)
    if shards > 1:
        cut(folder, shards)
    return folder


def plain_gemma2(folder: Path, *, seed: int = 32, **others: Any) -> Path:
    """Write a plain Gemma 2, the language model that one with a head per layer is trained from."""
    config = config_of(folder, "Gemma2ForCausalLM", "gemma2", others)
    return write_model(
        folder, {**config, "unit_norms": False}, decoder_shapes(config, norms=NORMS), seed=seed, scale=0.5
    )


def config_of(folder: Path, architecture: str, kind: str, others: dict[str, Any]) -> dict[str, Any]:
    """Write the tokenizer; return a configuration with the keys of the published one.

    The cap on attention scores is far below the published 50, so that it changes these small scores.
    """
    return {
        "architectures": [architecture],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 1.0,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "head_dim": 8,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "max_position_embeddings": 8192,
        "model_type": kind,
        "num_attention_heads": 4,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 8,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_size": 4096,
        "tie_word_embeddings": True,
        "transformers_version": "4.42.2",
        "use_cache": True,
        "vocab_size": write_pieces_tokenizer(folder, kind="GemmaTokenizer"),
        **others,
    }


MODELS = {
    "published": costwise_gemma,
    "sliding": partial(costwise_gemma, sliding_window=24, sliding_window_size=24),
    "every_other": partial(costwise_gemma, layer_sep=2, rope_theta=500.0, shards=1),
    "uncapped": partial(costwise_gemma, final_logit_softcapping=None, attn_logit_softcapping=None),
    "late": partial(costwise_gemma, start_layer=BLOCKS, layer_sep=BLOCKS),
}
"""Name -> writes the model into a folder."""

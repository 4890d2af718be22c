"""Tiny models in the published format of bge-reranker-v2-minicpm-layerwise, the same bytes in any environment."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.tiny_files import Shapes, decoder_shapes, write_model, write_pieces_tokenizer

BLOCKS, START_LAYER = 5, 2
SCALE = 0.5
"""Of the matrices' numbers: large enough for scores to differ from text to text."""
INDEX = "model.safetensors.index.json"


def minicpm(
    folder: Path, *, head_type: str = "simple", head_multi: bool = True, shards: int = 1, seed: int = 21, **others: Any
) -> Path:
    """Write a layer-wise MiniCPM with its tokenizer.

    Args:
        head_type, head_multi: the kind of its heads.
        shards: files that its weights lie in.
        others: further keys of the configuration, in the place of the usual ones.
    """
    said = {"head_type": head_type, "head_multi": head_multi, "start_layer": START_LAYER, **others}
    config = config_of(write_pieces_tokenizer(folder, kind="LlamaTokenizer"), "LayerWiseMiniCPMForCausalLM", said)
    write_model(folder, config, {**_blocks(config), **_heads(config)}, seed=seed, scale=SCALE)
    _settle(folder, config)
    if shards > 1:
        cut(folder, shards)
    return folder


def plain_minicpm(folder: Path, *, seed: int = 22, **others: Any) -> Path:
    """Write a plain MiniCPM, the language model that a layer-wise one is trained from."""
    config = config_of(write_pieces_tokenizer(folder, kind="LlamaTokenizer"), "MiniCPMForCausalLM", others)
    head = {} if config["tie_word_embeddings"] else {"lm_head.weight": (config["vocab_size"], config["hidden_size"])}
    write_model(folder, config, {**_blocks(config), **head}, seed=seed, scale=SCALE)
    _settle(folder, config)
    return folder


def config_of(vocabulary: int, architecture: str, others: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the keys of the published one."""
    return {
        "architectures": [architecture],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "auto_map": {
            "AutoConfig": "configuration_minicpm_reranker.LayerWiseMiniCPMConfig",
            "AutoModelForCausalLM": "modeling_minicpm_reranker.LayerWiseMiniCPMForCausalLM",
        },
        "bos_token_id": 1,
        "dim_model_base": 16,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 48,
        "initializer_range": 0.1,
        "intermediate_size": 80,
        "max_position_embeddings": 2048,
        "model_type": "minicpm",
        "num_attention_heads": 6,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": 6,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "scale_depth": 1.4,
        "scale_emb": 12,
        "tie_word_embeddings": True,
        "transformers_version": "4.38.1",
        "use_cache": False,
        "vocab_size": vocabulary,
        **others,
    }


def cut(folder: Path, shards: int) -> None:
    """Put the weights of a model into several files with an index."""
    from safetensors.numpy import load_file, save_file

    whole = folder / "model.safetensors"
    weights = load_file(whole)
    whole.unlink()
    names = sorted(weights)
    places = {name: f"model-{place % shards + 1:05}-of-{shards:05}.safetensors" for place, name in enumerate(names)}
    for shard in sorted(set(places.values())):
        chosen = {name: weights[name] for name in names if places[name] == shard}
        save_file(chosen, folder / shard, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in weights.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}), "utf-8")


def _settle(folder: Path, config: Mapping[str, Any]) -> None:
    """Make embeddings as small as ``scale_emb`` makes them large, so that a state is not its own token's alone."""
    from safetensors.numpy import load_file, save_file

    whole = folder / "model.safetensors"
    weights = load_file(whole)
    weights["model.embed_tokens.weight"] /= np.float32(config["scale_emb"])
    save_file(weights, whole, metadata={"format": "pt"})


def _blocks(config: Mapping[str, Any]) -> Shapes:
    biases = ("q_proj", "k_proj", "v_proj", "o_proj") if config["attention_bias"] else ()
    shapes = decoder_shapes(config, biases=biases)
    return {name: shape for name, shape in shapes.items() if not name.startswith("lm_head")}


def _heads(config: Mapping[str, Any]) -> Shapes:
    """Return names and shapes of the heads; the only head over the vocabulary may be the embeddings'."""
    simple, raw = config["head_type"] == "simple", config["head_type"] == "raw"
    if raw and not config["head_multi"] and config["tie_word_embeddings"]:
        return {}
    end = "weight" if raw else "linear_head.weight"
    count = config["num_hidden_layers"] - config["start_layer"] + 1
    names = [f"lm_head.{place}.{end}" for place in range(count)] if config["head_multi"] else [f"lm_head.{end}"]
    return dict.fromkeys(names, (1 if simple else config["vocab_size"], config["hidden_size"]))


KINDS: dict[str, dict[str, Any]] = {
    "simple": {},
    "simple_shared": {"head_multi": False},
    "simple_grouped": {"num_key_value_heads": 2, "attention_bias": True, "rope_theta": 5000.0, "shards": 3},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 512},
    "complex": {"head_type": "complex"},
    "complex_shared": {"head_type": "complex", "head_multi": False},
    "raw": {"head_type": "raw"},
    "raw_tied": {"head_type": "raw", "head_multi": False},
    "raw_untied": {"head_type": "raw", "head_multi": False, "tie_word_embeddings": False},
}
"""Name -> options of ``minicpm``."""
MODELS: dict[str, Callable[[Path], Path]] = {
    name: partial(minicpm, **options) for name, options in KINDS.items() if "head_type" not in options
}
"""Models that FlagEmbedding scores; of heads over the vocabulary it takes the last token, not "Yes"."""

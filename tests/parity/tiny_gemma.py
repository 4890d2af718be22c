"""A tiny model in the published format of bge-reranker-v2.5-gemma2-lightweight, the same bytes in every environment.

Needs numpy, safetensors and tokenizers only: FlagEmbedding on transformers 4 and this package on transformers 5 read
the same folder. Run as a script: ``python tiny_gemma.py FOLDER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

HIDDEN, INTERMEDIATE, BLOCKS, HEADS, KEY_HEADS, HEAD_SIZE = 32, 48, 6, 4, 2, 8
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")
WORDS = (
    "A B Predict Yes No a an and answer argument are as at blue cat contains dog each express file find fish green in "
    "is it list name new of on opinions or passage passages queries query read red remove same sort string text that "
    "the thing this to tree two whether word write zero"
).split()


def build(folder: Path | str, *, sliding_window: int = 4096, start_layer: int = 2, seed: int = 7) -> str:
    """Write config.json, two shards of weights with their index, and a tokenizer; return the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    _write_json(folder / "config.json", config(vocabulary, sliding_window, start_layer))
    _write_weights(folder, _weights(vocabulary, BLOCKS - start_layer + 1, np.random.RandomState(seed)))
    return str(folder)


def config(vocabulary: int, sliding_window: int, start_layer: int) -> dict[str, object]:
    """Return a configuration with the keys of the published one."""
    return {
        "architectures": ["CostWiseGemmaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": 2.0,
        "bos_token_id": 2,
        "cache_implementation": "hybrid",
        "eos_token_id": 1,
        "final_logit_softcapping": 30.0,
        "head_dim": HEAD_SIZE,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "layer_sep": 1,
        "layer_wise": True,
        "max_position_embeddings": 8192,
        "model_type": "cost_wise_gemma",
        "num_attention_heads": HEADS,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": KEY_HEADS,
        "pad_token_id": 0,
        "query_pre_attn_scalar": HEAD_SIZE,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": sliding_window,
        "sliding_window_size": sliding_window,
        "start_layer": start_layer,
        "torch_dtype": "float32",
        "transformers_version": "4.42.2",
        "use_cache": True,
        "vocab_size": vocabulary,
    }


def _weights(vocabulary: int, heads: int, random: np.random.RandomState) -> dict[str, np.ndarray]:
    def drawn(*shape: int, scale: float = 0.3) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    found = {"model.embed_tokens.weight": drawn(vocabulary, HIDDEN, scale=0.5)}
    for block in range(BLOCKS):
        before = f"model.layers.{block}."
        for name, rows, columns in (
            ("self_attn.q_proj", HEADS * HEAD_SIZE, HIDDEN),
            ("self_attn.k_proj", KEY_HEADS * HEAD_SIZE, HIDDEN),
            ("self_attn.v_proj", KEY_HEADS * HEAD_SIZE, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HEADS * HEAD_SIZE),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ):
            found[f"{before}{name}.weight"] = drawn(rows, columns)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            found[f"{before}{name}_layernorm.weight"] = drawn(HIDDEN)
    found["model.norm.weight"] = drawn(HIDDEN)
    for head in range(heads):
        found[f"lm_head.{head}.linear_head.weight"] = drawn(1, HIDDEN, scale=2.0)
    return found


def _write_weights(folder: Path, weights: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    names = list(weights)
    shards = {"model-00001-of-00002.safetensors": names[: len(names) // 2],
              "model-00002-of-00002.safetensors": names[len(names) // 2 :]}  # fmt: skip
    for shard, chosen in shards.items():
        save_file({name: weights[name] for name in chosen}, str(folder / shard), metadata={"format": "pt"})
    places = {name: shard for shard, chosen in shards.items() for name in chosen}
    size = sum(tensor.nbytes for tensor in weights.values())
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": places})


def _write_tokenizer(folder: Path) -> int:
    """Write a tokenizer over WORDS, characters and line breaks, which adds <bos> as Gemma's does; return its size."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    pieces = [*SPECIAL, "\n", *(chr(code) for code in range(33, 127)), *WORDS]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(" +"), "removed"), pre_tokenizers.Split(Regex(r"\n|[^\s\w]"), "isolated")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", settings)
    return len(vocabulary)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    print(build(sys.argv[1]))

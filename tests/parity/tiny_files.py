"""Tiny models as files, the same bytes in any environment: numbers from numpy, tokenizers and configurations as JSON.

Neither torch nor transformers is imported, so that two versions of them read one and the same model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

TEXT_OF_WORDS = (
    "A B Yes No Given query passage determine whether contains answer the to by providing prediction either of or a an "
    "and are as at be can cat code dog each file find fish for from get give has have how in is it list make name new "
    "not number on one open path read remove return right search sort string text that them this tree two up use value "
    "was what when where which with word write zero red blue green relevant Predict yes no Judge Document Query"
)
WORDS = TEXT_OF_WORDS.split()
SPACE = "\u2581"
"""What SentencePiece puts for a space."""
Shapes = Mapping[str, tuple[int, ...]]


def write_model(folder: Path, config: Mapping[str, Any], shapes: Shapes, *, seed: int, scale: float = 0.25) -> Path:
    """Write ``config.json`` and ``model.safetensors`` with seeded numbers; norms' weights lie around one.

    Args:
        config: may hold ``unit_norms``, which is taken out: False for norms that add one to their weight (Gemma).
        scale: standard deviation of the matrices' numbers times the root of their inputs.
    """
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    said = dict(config)
    around = 1.0 if said.pop("unit_norms", True) else 0.0
    weights = {name: drawn(name, shape, seed, scale, around) for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"torch_dtype": "float32", **said}, indent=1) + "\n", "utf-8")
    return folder


def drawn(name: str, shape: tuple[int, ...], seed: int, scale: float, around: float = 1.0) -> np.ndarray:
    """Return the numbers of one weight; they depend on its name, not on the order of the weights."""
    random = np.random.default_rng([seed, crc32(name.encode())])
    numbers = random.standard_normal(shape)
    if "norm" in name:
        return (around + 0.2 * numbers).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * numbers).astype(np.float32)
    if "embed_tokens" in name:
        return numbers.astype(np.float32)
    return (numbers * scale * 4 / np.sqrt(shape[-1])).astype(np.float32)


def decoder_shapes(config: Mapping[str, Any], *, biases: Sequence[str] = (), norms: Sequence[str] = ()) -> Shapes:
    """Return names and shapes of a Llama-like language model.

    Args:
        biases: projections that have one ("q_proj" …).
        norms: norms of a layer beside the usual two.
    """
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    groups = config.get("num_key_value_heads") or heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocabulary, hidden)
    parts = {
        "self_attn.q_proj": (heads * width, hidden),
        "self_attn.k_proj": (groups * width, hidden),
        "self_attn.v_proj": (groups * width, hidden),
        "self_attn.o_proj": (hidden, heads * width),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for layer in range(config["num_hidden_layers"]):
        before = f"model.layers.{layer}."
        for part, shape in parts.items():
            shapes[f"{before}{part}.weight"] = shape
            if part.rpartition(".")[2] in biases:
                shapes[f"{before}{part}.bias"] = shape[:1]
        for norm in ("input_layernorm", "post_attention_layernorm", *norms):
            shapes[f"{before}{norm}.weight"] = (hidden,)
    return shapes


def write_bytes_tokenizer(folder: Path, *, kind: str = "Qwen2Tokenizer", bos: bool = False, side: str = "left") -> int:
    """Write a byte-level BPE tokenizer, as Qwen's and Llama 3's; returns the number of its tokens."""
    letters = _byte_letters()
    words = [*WORDS, *("\u0120" + word for word in WORDS)]
    vocabulary, merges = _grown(letters, words)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(["<|begin|>"] if bos else [])]
    vocabulary |= {token: len(vocabulary) + place for place, token in enumerate(special)}
    before = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}] if bos else []
    begin = {"<|begin|>": {"id": "<|begin|>", "ids": [vocabulary["<|begin|>"]], "tokens": ["<|begin|>"]}} if bos else {}
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+"
    )
    content = {
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ]},
        "post_processor": _template(before, begin) if bos else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": _bpe(vocabulary, merges),
    }  # fmt: skip
    named = {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "bos_token": "<|begin|>" if bos else None}
    return _write_tokenizer(folder, content, vocabulary, special, kind, named, side)


def write_pieces_tokenizer(folder: Path, *, kind: str, side: str = "left") -> int:
    """Write a BPE tokenizer over pieces with byte fallback, as SentencePiece makes them; returns how many tokens.

    Args:
        kind: ``LlamaTokenizer`` puts a space before every text and knows no line end; ``GemmaTokenizer`` does not and
            does.
    """
    gemma = kind.startswith("Gemma")
    special = ["<pad>", "<eos>", "<bos>", "<unk>"] if gemma else ["<unk>", "<s>", "</s>"]
    ascii_letters = [chr(code) for code in range(33, 127)]
    start = [*special, *(f"<0x{code:02X}>" for code in range(256)), *(["\n", "\n\n"] if gemma else []), SPACE]
    vocabulary, merges = _grown([*start, *ascii_letters], [*(SPACE + word for word in WORDS), *WORDS])
    if gemma:
        merges.append("\n \n")
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    begin = "<bos>" if gemma else "<s>"
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    content = {
        "normalizer": replace if gemma else {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": split if gemma else None,
        "post_processor": _template(
            [{"SpecialToken": {"id": begin, "type_id": 0}}],
            {begin: {"id": begin, "ids": [vocabulary[begin]], "tokens": [begin]}},
        ),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
        "model": _bpe(vocabulary, merges, unknown="<unk>"),
    }  # fmt: skip
    named = {"bos_token": begin, "eos_token": "<eos>" if gemma else "</s>", "unk_token": "<unk>",
             "pad_token": "<pad>" if gemma else "<unk>", "add_bos_token": True, "add_eos_token": False}  # fmt: skip
    if not gemma:
        named["legacy"] = True
    return _write_tokenizer(folder, content, vocabulary, special, kind, named, side)


def _grown(start: Sequence[str], words: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """Return a vocabulary and the merges that lead from single characters to the words, from left to right."""
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(start))}
    merges: dict[str, None] = {}
    for word in words:
        for end in range(2, len(word) + 1):
            merges.setdefault(f"{word[: end - 1]} {word[end - 1]}")
            vocabulary.setdefault(word[:end], len(vocabulary))
    return vocabulary, list(merges)


def _byte_letters() -> list[str]:
    """Return the letters that stand for the 256 bytes, as GPT-2 has them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [code for code in range(256) if code not in printable]
    letters = {code: chr(code) for code in printable} | {code: chr(256 + place) for place, code in enumerate(others)}
    return [letters[code] for code in range(256)]


def _bpe(vocabulary: Mapping[str, int], merges: list[str], unknown: str | None = None) -> dict[str, Any]:
    fallback = unknown is not None
    return {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": fallback, "byte_fallback": fallback, "ignore_merges": False,
        "vocab": vocabulary, "merges": merges,
    }  # fmt: skip


def _template(before: list[Any], special: Mapping[str, Any]) -> dict[str, Any]:
    first, second = ({"Sequence": {"id": name, "type_id": place}} for place, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing", "single": [*before, first], "pair": [*before, first, *before, second],
        "special_tokens": special,
    }  # fmt: skip


def _write_tokenizer(
    folder: Path, content: Mapping[str, Any], vocabulary: Mapping[str, int], special: Sequence[str], kind: str,
    named: Mapping[str, Any], side: str,
) -> int:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    added = [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True} for token in special
    ]  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **content}
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False) + "\n", "utf-8")
    plain = ({key: value for key, value in item.items() if key not in ("id",)} for item in added)
    decoder = {str(item["id"]): described for item, described in zip(added, plain)}
    config = {
        "added_tokens_decoder": decoder, "clean_up_tokenization_spaces": False, "model_max_length": 8192,
        "padding_side": side, "tokenizer_class": kind, **named,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False) + "\n", "utf-8")
    named_only = {key: value for key, value in named.items() if key.endswith("_token") and isinstance(value, str)}
    (folder / "special_tokens_map.json").write_text(json.dumps(named_only) + "\n", "utf-8")
    return len(vocabulary)

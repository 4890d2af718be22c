"""How much memory answers take beyond the hidden states, measured in a process of its own: MB by family."""

from __future__ import annotations

import ctypes
import json
import resource
from pathlib import Path
from typing import Any

BATCH, LENGTH, VOCABULARY = 16, 512, 250_000
FAMILIES = ("llm_reranker", "chat_reranker")
M_MMAP_THRESHOLD = -3
"""Number of glibc's option: blocks of that many bytes are mapped by themselves."""


def write(folder: Path) -> Path:
    """Write a language model with few numbers but the embeddings of a large vocabulary."""
    from tests.parity.tiny_files import decoder_shapes, write_bytes_tokenizer, write_model

    write_bytes_tokenizer(folder)
    config: dict[str, Any] = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 8, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "vocab_size": VOCABULARY, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "hidden_act": "silu",
    }  # fmt: skip
    shapes = decoder_shapes(config, biases=("q_proj", "k_proj", "v_proj"))
    return write_model(folder, config, shapes, seed=5)


def peak() -> float:
    """Return the most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def beyond_hidden_states(family: str, folder: Path) -> float:
    """Return how far the peak rises from the hidden states alone to the scores, in MB."""
    import torch

    from finerank.models.load import load_scorer

    scorer = load_scorer(str(folder), family=family, device="cpu", dtype="float32")
    mask = torch.ones(BATCH, LENGTH, dtype=torch.long)
    mask[1, :100] = 0
    features = {"input_ids": torch.randint(VOCABULARY, (BATCH, LENGTH)), "attention_mask": mask}
    with torch.inference_mode():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        for _ in range(3):  # what the allocator keeps between two passes is no memory of the answers
            scorer.transformer.base_model(**features, position_ids=positions, use_cache=False)
        before = peak()
        scores = scorer.module.logits(features)
    assert scores.shape == (BATCH,)
    return peak() - before


def measure(folder: Path, target: Path) -> None:
    """Write a JSON object of MB by family."""
    # Each tensor is mapped by itself, so that the peak is what is in use and nothing that the allocator keeps.
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 65_536)
    target.write_text(json.dumps({family: beyond_hidden_states(family, folder) for family in FAMILIES}))

"""From what a user asks of an embedder to what it is loaded with."""

from __future__ import annotations

from typing import Any

from finerank.batching.prompts import format_prompt
from finerank.core.model_options import EncoderOptions


def encoder_arguments(options: EncoderOptions) -> dict[str, Any]:
    """Return ``load_encoder``'s arguments but the device; None leaves a setting to the model's own configuration."""
    instruction = options.query_instruction_for_retrieval
    return {
        "dtype": options.dtype,
        "query_prompt": None
        if instruction is None
        else format_prompt(instruction, options.query_instruction_format_for_retrieval),
        "pooling": options.pooling_method,
        "normalize": options.normalize_embeddings,
        "query_max_len": options.embedder_query_max_length,
        "passage_max_len": options.embedder_passage_max_length,
        "cache_dir": options.cache_dir,
        "trust_remote_code": options.trust_remote_code,
    }

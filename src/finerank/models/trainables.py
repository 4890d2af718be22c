"""The model that a training starts from, by its options."""

from __future__ import annotations

from typing import Any

from finerank.batching.prompts import format_prompt
from finerank.core.train_options import EmbedderOptions, RerankerOptions, TrainOptions
from finerank.models.load import load_encoder, trainable_encoder, trainable_scorer


def trainable_of(options: TrainOptions) -> Any:
    """Load the model to tune: float32 weights, its parts of a step as long as the options say.

    Raises:
        UserError: if there is no such model, or it is of the other family.
    """
    model = _scorer(options) if isinstance(options, RerankerOptions) else _encoder(options)
    model.tokens_per_forward = options.max_tokens_per_forward or model.tokens_per_forward
    model.texts_per_forward = options.sub_batch_size
    return model


def first_stage_of(options: RerankerOptions) -> Any:
    """Load the embedder that finds what a reranker is measured on."""
    return load_encoder(
        str(options.first_stage), device=options.device, dtype=options.dtype, cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip


def _scorer(options: RerankerOptions) -> Any:
    return trainable_scorer(
        options.model_name_or_path, max_len=options.max_len, query_max_len=options.query_max_len,
        passage_max_len=options.passage_max_len, seed=options.seed, **_shared(options),
    )  # fmt: skip


def _encoder(options: TrainOptions) -> Any:
    assert isinstance(options, EmbedderOptions)
    query, passage = options.query_instruction_for_retrieval, options.passage_instruction_for_retrieval
    return trainable_encoder(
        options.model_name_or_path,
        query_prompt=None if query is None else format_prompt(query, options.query_instruction_format),
        passage_prompt=None if passage is None else format_prompt(passage, options.passage_instruction_format),
        query_max_len=options.query_max_len or options.max_len,
        passage_max_len=options.passage_max_len or options.max_len,
        pooling=options.sentence_pooling_method, normalize=options.normalize_embeddings, **_shared(options),
    )  # fmt: skip


def _shared(options: TrainOptions) -> dict[str, Any]:
    return {
        "device": options.device,
        "dropout": options.dropout,
        "cache_dir": options.cache_dir,
        "trust_remote_code": options.trust_remote_code,
    }

"""The model that a training starts from, by its options: its lengths and prompts, adapters, what stays frozen."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from finerank.batching.prompts import format_prompt
from finerank.batching.row_pairs import PairLayout
from finerank.batching.row_prompts import Prompts, embedder_prompts, pair_prompts
from finerank.core.train_options import EmbedderOptions, RerankerOptions, TrainOptions
from finerank.data.console import say
from finerank.models import adapters, freezing
from finerank.models.load import load_encoder, trainable_encoder, trainable_scorer
from finerank.models.model_files import base_of
from finerank.models.reranker_arguments import prompt_stands_last, training_arguments, training_family

LANGUAGE_MODEL = "CAUSAL_LM"
"""What families that are language models call their task, as peft does."""


def trainable_of(options: TrainOptions) -> Any:
    """Load the model to tune: float32 weights, its parts of a step as long as the options say.

    Raises:
        UserError: if there is no such model, it is of the other family, or an adapter does not fit it.
        UsageError: if nothing would be left to train.
    """
    model = _scorer(options) if isinstance(options, RerankerOptions) else _encoder(options)
    model.tokens_per_forward = options.max_tokens_per_forward or model.tokens_per_forward
    model.texts_per_forward = options.sub_batch_size
    transformer = model.transformer
    for folder in options.raw_peft:
        adapters.merge_folder(transformer, folder, options.cache_dir)
    heads = freezing.heads_of(transformer) if isinstance(options, RerankerOptions) else []
    if getattr(model, "TASK", None) == LANGUAGE_MODEL and not (options.tunes_adapter or options.freeze):
        say("note: all weights of a language model are tuned; --use_lora tunes adapters, in far less memory")
    freezing.freeze(model.module, transformer, options.freeze, heads)
    if options.fix_position_embedding and not options.tunes_adapter:
        freezing.freeze_positions(model.module)
    if options.tunes_adapter:
        _adapt(model, options, _tuned_whole(model, heads))
    return model


def prompt_last(options: TrainOptions) -> bool:
    """Say whether a row's own ``prompt`` is what the model to tune reads behind its pairs."""
    return isinstance(options, RerankerOptions) and prompt_stands_last(training_family(options))


def own_prompts(model: Any, template: str) -> Prompts:
    """Return what the rows that a tuned model is measured on put around their texts.

    Args:
        template: how an embedder's instruction and a query are joined.
    """
    if hasattr(model, "encode"):
        return partial(embedder_prompts, template=template)
    return partial(pair_prompts, layout=PairLayout(prompt_last=model.TASK == LANGUAGE_MODEL))


def first_stage_of(options: Any) -> Any:
    """Load the embedder that finds what a reranker is measured on, as a verb's options name it; None for BM25."""
    if options.first_stage in (None, "bm25"):
        return None
    return load_encoder(
        str(options.first_stage), device=options.device, dtype=options.dtype, cache_dir=options.cache_dir,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip


def _adapt(model: Any, options: TrainOptions, heads: list[str]) -> None:
    """Put adapters beside the layers of ``model``, and settle how it is saved."""
    name = options.model_name_or_path
    base = str(Path(name).resolve()) if Path(name).is_dir() else name
    transformer = model.transformer
    model.module.requires_grad_(False)
    if options.from_peft is not None:
        adapters.continue_adapter(transformer, options.from_peft, base, options.cache_dir)
    else:
        adapters.add_lora(transformer, options, base, heads, options.seed, task=model.TASK)
    model.merge_adapter = options.save_merged_lora_model
    if (options.raw_peft or base_of(name, options.cache_dir)) and not model.merge_adapter:
        say("the adapter stands on a model that is in no folder: the merged model will be saved")
        model.merge_adapter = True


def _tuned_whole(model: Any, heads: list[str]) -> list[str]:
    """Return the modules that are tuned and saved whole beside adapters: heads, but none over a vocabulary."""
    if model.TASK != LANGUAGE_MODEL:
        return heads
    size = model.transformer.config.vocab_size
    sizes = {name: [len(each) for each in model.transformer.get_submodule(name).parameters()] for name in heads}
    return [name for name in heads if size not in sizes[name]]


def _scorer(options: RerankerOptions) -> Any:
    return trainable_scorer(
        options.model_name_or_path, max_len=options.max_len, query_max_len=options.query_max_len,
        passage_max_len=options.passage_max_len, seed=options.seed, **training_arguments(options), **_shared(options),
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

"""The options that say how a reranker is opened and what it reads, the same words for every verb that runs one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finerank.core.options import option

RerankerClass = Literal[
    "auto", "encoder-only-base", "decoder-only-base", "decoder-only-layerwise", "decoder-only-lightweight",
    "decoder-only-chat",
]  # fmt: skip
"""FlagEmbedding's names, and one of ours: language models that answer in a chat, as Qwen3-Reranker does."""
Reading = Literal["flagembedding", "architecture"]
DECODER_READS = ("prompt", "cutoff_layers", "compress_ratio", "compress_layers", "lightweight_reading")
"""Options that some decoder-only rerankers take, and no reranker with an encoder."""
RERANKER_READS = ("query_instruction_for_rerank", "passage_instruction_for_rerank", *DECODER_READS)
"""Options that mean something to a reranker, and nothing to an embedder."""


@dataclass(kw_only=True)
class PairOptions:
    """What a reranker reads, in training as later; None leaves it to the model."""

    reranker_model_class: RerankerClass = option("auto", "kind of the reranker; auto reads it in the model's own files")
    query_instruction_for_rerank: str | None = option(
        None,
        "put before each query, in the place of a language model's own \"A: \"; a row's query_prompt (for a reranker "
        "with an encoder its prompt, too) takes its place. Training and scoring must be given the same",
        metavar="TEXT",
    )
    query_instruction_format_for_rerank: str = option(
        "{}{}", "how the instruction (first {}) and the query (second {}) are joined"
    )
    passage_instruction_for_rerank: str | None = option(
        None,
        "put before each passage, in the place of a language model's own \"B: \"; a row's passage_prompt takes its "
        "place",
        metavar="TEXT",
    )
    passage_instruction_format_for_rerank: str = option("{}{}", "how that instruction and the passage are joined")
    prompt: str | None = option(
        None,
        "question that a decoder-only reranker reads behind query and passage; without it the model's own. A row's "
        "own prompt takes its place",
        metavar="TEXT",
    )
    cutoff_layers: list[int] = option(
        [],
        "layers that a layerwise or lightweight reranker scores from; it stops at the highest, whose scores count: a "
        "lower one is faster and less exact; without it the model's own, else the last",
        metavar="LAYER",
        ge=1,
    )
    compress_ratio: int | None = option(
        None,
        "how many tokens of a passage a lightweight reranker makes into one, in --compress_layers: faster and less "
        "exact; without it the model's own, else 1",
        metavar="1|2|4|8",
        ge=1,
    )
    compress_layers: list[int] = option(
        [], "layers before which it does so; without it the model's own, else 8", metavar="LAYER", ge=1
    )
    lightweight_reading: Reading | None = option(
        None,
        "how a lightweight reranker's weights are read: flagembedding, as FlagEmbedding runs them (the first head for "
        "every layer, attention scores not capped), which is how published figures were measured; architecture, as "
        "the model's configuration says; without it the model's own, else flagembedding, in training architecture",
    )


@dataclass(kw_only=True)
class RerankerModelOptions(PairOptions):
    """The same, for verbs that run a tuned reranker."""

    reranker_peft_path: str | None = option(
        None, "adapter folder (LoRA) that is merged into the reranker when it is loaded", metavar="DIR"
    )


@dataclass(kw_only=True)
class LayerOptions:
    """How a decoder-only reranker is trained, as FlagEmbedding's trainers name it."""

    model_type: Literal["auto", "encoder", "decoder", "from_raw_model", "from_finetuned_model"] = option(
        "auto",
        "what is tuned: from_raw_model gives a plain language model a head on each layer, and so makes it a layerwise "
        "reranker; from_finetuned_model is one already; encoder and decoder only check; auto reads it in the model's "
        "own files",
    )
    start_layer: int | None = option(
        None,
        "first layer of a layerwise or lightweight reranker that learns to score, all above it do; without it the "
        "model's own, else 8",
        ge=1,
    )
    head_multi: bool | None = option(
        None, "from_raw_model: give each layer a head of its own, rather than one to all (the default)"
    )
    head_type: Literal["simple", "complex", "raw"] | None = option(
        None,
        'from_raw_model: a head with one number that begins as the row of "Yes" (simple, the default), or a head over '
        "the vocabulary, complex or raw",
    )
    self_distillation: bool = option(
        True,
        "layerwise, lightweight: lower layers learn from the last one's scores too, where no teacher's scores are "
        "learned from",
    )

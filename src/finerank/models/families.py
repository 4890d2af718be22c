"""Which family serves a model: from what its files say, or from ``--reranker_model_class``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from finerank.models.model_files import ADAPTER_CONFIG, FINERANK_JSON, ST_CONFIG, base_of, model_file, read_json

FAMILIES = {
    "bi_encoder": "finerank.models.bi_encoder:BiEncoder",
    "cross_encoder": "finerank.models.cross_encoder:CrossEncoder",
    "llm_reranker": "finerank.models.llm_reranker:LlmReranker",
    "chat_reranker": "finerank.models.chat_reranker:ChatReranker",
    "layerwise_reranker": "finerank.models.layerwise_reranker:LayerwiseReranker",
    "lightweight_reranker": "finerank.models.lightweight_reranker:LightweightReranker",
}
FAMILY_OF_CLASS = {
    "encoder-only-base": "cross_encoder",
    "decoder-only-base": "llm_reranker",
    "decoder-only-layerwise": "layerwise_reranker",
    "decoder-only-lightweight": "lightweight_reranker",
    "decoder-only-chat": "chat_reranker",
}
"""Classes of rerankers, the last our name and the others FlagEmbedding's -> keys of ``FAMILIES``."""
CLASS_OF_FAMILY = {family: name for name, family in FAMILY_OF_CLASS.items()}
FITTING: dict[str | None, tuple[str, ...]] = {
    None: ("encoder-only-base",),
    "encoder-only-base": ("encoder-only-base",),
    "decoder-only-base": ("decoder-only-base", "decoder-only-chat"),
    "decoder-only-chat": ("decoder-only-base", "decoder-only-chat"),
    "decoder-only-layerwise": ("decoder-only-layerwise",),
    "decoder-only-lightweight": ("decoder-only-lightweight",),
}
"""Class that a model's files say (None: an embedder, a plain encoder) -> classes that it can be read as."""
SCORING_HEADS = ("ForSequenceClassification",)
GENERATIVE = "ForCausalLM"
LAYERWISE, LIGHTWEIGHT = "layerwise", "costwise"
"""What FlagEmbedding's remote code calls these architectures, in lower case: LayerWiseMiniCPM…, CostWiseGemma…."""
CHATTING = ("Qwen3ForCausalLM",)
"""Architectures of published rerankers that answer in a chat; only the name tells them from a plain language model."""


def open_family(name: str) -> Any:
    """Import a family's class."""
    module, _, attribute = FAMILIES[name].partition(":")
    return getattr(import_module(module), attribute)


def family_of(name: str, cache_dir: str | None = None) -> str:
    """Return the key of ``FAMILIES`` that serves a model; a bare causal language model is taken as a reranker."""
    found = class_of(name, cache_dir)
    return "bi_encoder" if found is None else FAMILY_OF_CLASS[found]


def scoring_family(name: str, cache_dir: str | None = None) -> str:
    """Return the family that scores pairs with ``name``; an embedder would have to be tuned into a cross-encoder."""
    found = family_of(name, cache_dir)
    return "cross_encoder" if found == "bi_encoder" else found


def is_reranker(name: str, cache_dir: str | None = None) -> bool:
    """Say whether a model scores pairs."""
    return class_of(name, cache_dir) is not None


def is_language_model(name: str, cache_dir: str | None = None) -> bool:
    """Say whether ``name`` is a bare causal language model, which can be tuned into either."""
    marks = (ST_CONFIG, FINERANK_JSON, ADAPTER_CONFIG)
    return class_of(name, cache_dir) == "decoder-only-base" and not any(read_json(name, it, cache_dir) for it in marks)


def architecture_of(name: str, cache_dir: str | None = None) -> str:
    """Return the first architecture that a model's configuration, or its base's, names; empty if it names none."""
    named = read_json(base_of(name, cache_dir) or name, "config.json", cache_dir).get("architectures") or [""]
    return str(named[0])


def class_of(name: str, cache_dir: str | None = None) -> str | None:
    """Return the class of a reranker, from the model's files; None of an embedder."""
    own = read_json(name, FINERANK_JSON, cache_dir).get("class")
    if own in FAMILY_OF_CLASS:
        return str(own)
    architecture = _class_by_architecture(name, cache_dir)
    saved_as = read_json(name, ST_CONFIG, cache_dir).get("model_type")
    if saved_as == "SentenceTransformer":
        return None
    if saved_as == "CrossEncoder":
        return "decoder-only-chat" if architecture == "decoder-only-base" else architecture or "encoder-only-base"
    if architecture in ("decoder-only-base", "decoder-only-chat"):
        modules = model_file(name, "modules.json", cache_dir)
        if modules is not None:
            return "decoder-only-chat" if "LogitScore" in modules.read_text(encoding="utf-8") else None
    base = base_of(name, cache_dir)
    if base is None:
        return architecture
    task = read_json(name, ADAPTER_CONFIG, cache_dir).get("task_type")
    if task == "FEATURE_EXTRACTION":
        return None
    return "encoder-only-base" if task == "SEQ_CLS" else class_of(base, cache_dir)


def _class_by_architecture(name: str, cache_dir: str | None) -> str | None:
    for architecture in read_json(name, "config.json", cache_dir).get("architectures") or []:
        lowered = architecture.lower()
        if architecture.endswith(SCORING_HEADS):
            return "encoder-only-base"
        if not architecture.endswith(GENERATIVE):
            continue
        if LAYERWISE in lowered:
            return "decoder-only-layerwise"
        if LIGHTWEIGHT in lowered:
            return "decoder-only-lightweight"
        by_name = architecture in CHATTING and "rerank" in Path(name).name.lower()
        return "decoder-only-chat" if by_name else "decoder-only-base"
    return None

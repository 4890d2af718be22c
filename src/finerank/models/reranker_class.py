"""Which family serves a reranker: from ``--reranker_model_class``, or from the model's own configuration."""

from __future__ import annotations

from finerank.core.errors import UserError
from finerank.models.load import FAMILIES, base_of, read_json

FAMILY_OF_CLASS = {
    "encoder-only-base": "cross_encoder",
    "decoder-only-base": "llm_reranker",
    "decoder-only-layerwise": "layerwise_reranker",
    "decoder-only-lightweight": "lightweight_reranker",
}
"""FlagEmbedding's names of reranker classes -> keys of ``load.FAMILIES``."""
GENERATIVE = "ForCausalLM"
LAYERWISE, LIGHTWEIGHT = "layerwise", "costwise"
"""What FlagEmbedding's remote code calls these architectures, in lower case: LayerWiseMiniCPM…, CostWiseGemma…."""


def class_of_reranker(name: str, cache_dir: str | None = None) -> str:
    """Return FlagEmbedding's class name for a model, from the architecture in its ``config.json``."""
    base = base_of(name, cache_dir) or name
    for architecture in read_json(base, "config.json", cache_dir).get("architectures") or []:
        if architecture.endswith(GENERATIVE):
            lowered = architecture.lower()
            if LAYERWISE in lowered:
                return "decoder-only-layerwise"
            return "decoder-only-lightweight" if LIGHTWEIGHT in lowered else "decoder-only-base"
    return "encoder-only-base"


def family_of_reranker(name: str, wanted: str = "auto", cache_dir: str | None = None) -> str:
    """Return the key of ``load.FAMILIES`` that serves ``name``.

    Args:
        wanted: a class name, or auto.

    Raises:
        UserError: if no family serves that class yet.
    """
    chosen = class_of_reranker(name, cache_dir) if wanted == "auto" else wanted
    family = FAMILY_OF_CLASS[chosen]
    if family not in FAMILIES:
        found = "its configuration says" if wanted == "auto" else "--reranker_model_class says"
        raise UserError(
            f"{name} is a {chosen} reranker, as {found}: these come with the LLM-rerankers issue, so far rerankers "
            "with an encoder score",
            hint="--reranker_name_or_path BAAI/bge-reranker-v2-m3",
        )
    return family

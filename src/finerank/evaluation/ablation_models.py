"""What an ablation loads: embedders, rerankers, and the space that candidates are found and compared in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finerank.core.ablate_options import FINE_TUNED, ZERO_SHOT, AblateOptions
from finerank.core.errors import UserError
from finerank.core.protocols import Scorer
from finerank.data.console import progress, warn
from finerank.evaluation.retriever_lists import TYPES, parts_of
from finerank.retrieval.segment import resolve, segment_by
from finerank.retrieval.spaces import Space, VectorSpace, WordSpace
from finerank.retrieval.sparse import SparseIndex
from finerank.retrieval.vectors import cache_folder


def rerankers_of(options: AblateOptions) -> tuple[list[str], dict[str, Scorer], dict[str, str]]:
    """Return the retrievers that can run, their rerankers, and why the others cannot.

    Raises:
        UserError: if a reranker that was asked for cannot be had; one that is only a default is skipped aloud.
    """
    kinds = list(TYPES) if options.single is None else [options.single]
    asked = {"zs": options.reranker_path, "ft": options.finetuned_path}
    usual = {"zs": next((path for path in ZERO_SHOT if Path(path).is_dir()), ZERO_SHOT[-1]), "ft": FINE_TUNED}
    scorers: dict[str, Scorer] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(reranker for _, reranker in map(parts_of, kinds) if reranker is not None):
        path = asked[name] or usual[name]
        try:
            scorers[name] = scorer_of(options, path)
        except UserError as error:
            if asked[name] is not None or options.single is not None:
                raise
            why = _briefly(error.message, path)
            for kind in kinds:
                if parts_of(kind)[1] == name:
                    skipped[kind] = why
                    warn(f"{kind} skipped: {why}")
    return [kind for kind in kinds if kind not in skipped], scorers, skipped


def _briefly(message: str, path: str) -> str:
    """Return why a model cannot be had, without what differs between machines."""
    found = message.replace(f"{Path.cwd()}/", "./").partition(" (")[0]
    return found if path in found else f"{path}: {found}"


def space_of(options: AblateOptions, encoder: Any, passages: Sequence[str]) -> Space:
    """Return the space of an embedder, or of words where there is none."""
    if encoder is None:
        return WordSpace(SparseIndex(passages, segment_by(resolve("auto", passages))))
    device = "cuda" if str(encoder.device).startswith("cuda") else "cpu"
    with progress(len(passages), "encoding documents", "documents") as update:
        return VectorSpace(
            encoder, passages, cache=cache_folder(options.embedding_cache), device=device, progress=update
        )


def scorer_of(options: AblateOptions, path: str) -> Scorer:
    """Load a reranker."""
    from finerank.models.load import load_scorer
    from finerank.models.reranker_arguments import scorer_arguments

    asked = scorer_arguments(options, path, options.cache_dir)
    found: Scorer = load_scorer(
        path, device=options.device, dtype=options.dtype, peft_path=options.reranker_peft_path,
        cache_dir=options.cache_dir, trust_remote_code=options.trust_remote_code, **asked,
    )  # fmt: skip
    return found


def encoder_of(options: AblateOptions, path: str | None) -> Any:
    """Load an embedder; None for words."""
    from finerank.models.encoder_arguments import encoder_arguments
    from finerank.models.load import load_encoder

    return None if path is None else load_encoder(path, device=options.device, **encoder_arguments(options))

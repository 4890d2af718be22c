"""finerank: from your documents to an embedder and a reranker proven better on your own data.

The public names load on first use, so that ``import finerank`` and ``finerank --help`` cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Embedder": "finerank.models.load",
    "Reranker": "finerank.models.load",
    "UserError": "finerank.core.errors",
    "CheckOptions": "finerank.stages.check",
    "ConvertOptions": "finerank.stages.convert",
    "MineOptions": "finerank.stages.mine",
    "SplitOptions": "finerank.stages.split",
    "ScoreOptions": "finerank.stages.score",
    "EmbedOptions": "finerank.stages.embed",
    "EmbedderOptions": "finerank.stages.train",
    "RerankerOptions": "finerank.stages.train",
    "MergeOptions": "finerank.stages.merge",
    "EvaluateOptions": "finerank.stages.evaluate",
    "RerankOptions": "finerank.stages.rerank",
    "DemoOptions": "finerank.stages.demo",
}
_VERBS = ("check", "convert", "mine", "split", "score", "embed", "train", "merge", "evaluate", "rerank", "demo")

__all__ = ["__version__", *_PUBLIC, *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _VERBS:
        return import_module(f"finerank.stages.{name}").run
    raise AttributeError(f"module 'finerank' has no attribute '{name}'")

"""The model card that is written beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finerank import __version__

FRONT = """---
library_name: {library}
pipeline_tag: {task}
base_model: {base}
tags:
- finerank
---
"""
RERANKER_SNIPPET = """from sentence_transformers import CrossEncoder

model = CrossEncoder({folder!r})
passages = ["Paris is the capital of France.", "Bread is baked from flour."]
for hit in model.rank("capital of France", passages):
    print(round(float(hit["score"]), 4), passages[hit["corpus_id"]])
"""
DECODER_SNIPPET = """from finerank import Reranker

model = Reranker({folder!r})
passages = ["Paris is the capital of France.", "Bread is baked from flour."]
for place, score in model.rank("capital of France", passages):
    print(round(score, 4), passages[place])
"""
EMBEDDER_SNIPPET = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer({folder!r})
passages = ["Paris is the capital of France.", "Bread is baked from flour."]
scores = model.similarity(model.encode_query(["capital of France"]), model.encode_document(passages))
print(scores)
"""
Kind = Literal["embedder", "reranker", "decoder"]
"""The last is a reranker that is a language model; not all of them can be opened with sentence-transformers."""
SNIPPETS: dict[Kind, str] = {"embedder": EMBEDDER_SNIPPET, "reranker": RERANKER_SNIPPET, "decoder": DECODER_SNIPPET}
NAMES: dict[Kind, str] = {
    "embedder": "embedder (bi-encoder)",
    "reranker": "reranker (cross-encoder)",
    "decoder": "reranker (language model)",
}


def model_card(
    folder: str, base: str, options: Mapping[str, Any], inputs: Any, counts: Mapping[str, Any], *, kind: Kind
) -> str:
    """Return the card as Markdown: what it is, how to use it, what was measured, from which data and options.

    Args:
        inputs: the data's digests, as in the manifest.
        counts: as in the manifest.
    """
    parts = [
        *opening(
            folder,
            base,
            f"# A {NAMES[kind]}, tuned from `{base}`",
            f"Made by finerank {__version__}; `training.html` shows the course of the training.",
            kind=kind,
        ),
        f"## Measured on held-out data\n\n{_figures(counts)}\n",
        *([f"## Beside its first stage\n\n{_beside(folder, counts)}\n"] if counts.get("first_stage") else []),
        f"## What to know\n\n{_alarms(counts)}\n",
        f"## Data\n\n{counts['rows']:,} rows, {counts['steps']:,} steps.\n\n{_block(inputs)}\n",
        f"## Options\n\n{_block(options)}\n",
    ]
    return "\n".join(parts)


def kind_of(model: Any) -> Kind:
    """Return the kind of a model: what it encodes with, or which task peft would say it has."""
    if hasattr(model, "encode"):
        return "embedder"
    return "decoder" if model.TASK == "CAUSAL_LM" else "reranker"


def opening(folder: str, base: str, title: str, made: str, *, kind: Kind) -> list[str]:
    """Return how every card begins: front matter, title, how it was made, how to use it."""
    snippet = SNIPPETS[kind].format(folder=folder)
    task = "sentence-similarity" if kind == "embedder" else "text-ranking"
    library = "transformers" if kind == "decoder" else "sentence-transformers"
    return [
        FRONT.format(task=task, base=json.dumps(base), library=library),
        f"{title}\n",
        f"{made}\n",
        f"## Use\n\n```python\n{snippet}```\n",
    ]


def _figures(counts: Mapping[str, Any]) -> str:
    if not counts["best"]:
        return "Nothing was measured: training ran without `--eval_data`. `finerank evaluate` does it, with intervals."
    rows = []
    for name, value in counts["best"].items():
        before, change = counts["base"].get(name), counts["changes"].get(name)
        rows.append([name, "" if before is None else f"{before:.4f}", f"{value:.4f}", *_interval(change)])
    return _table(["", "base", "tuned", "change", "95 % interval of the change"], rows) + (
        "\n\nPaired bootstrap over the held-out queries. The weights were chosen by these figures, so they flatter; "
        "`finerank evaluate` measures on data that chose nothing, with paired tests."
    )


def _beside(folder: str, counts: Mapping[str, Any]) -> str:
    first, fused = counts["first_stage"], counts["fused"]
    rows = [
        [name, f"{value:.4f}", f"{counts['best'][name]:.4f}", *_interval(first["changes"].get(name)),
         f"{fused['figures'][name]:.4f}"]
        for name, value in first["figures"].items()
    ]  # fmt: skip
    head = ["", f"first stage {first['name']}", "tuned", "change", "95 % interval of the change", "both together"]
    return _table(head, rows) + (
        f"\n\nTogether: z-scores added up, the reranker's with weight {fused['weight']:g}, best on these very "
        "queries. It is stored here and used by "
        f"`finerank rerank --model_name_or_path {folder} --fusion zscore --fusion_weight auto`."
    )


def _alarms(counts: Mapping[str, Any]) -> str:
    tripped = counts.get("tripwires") or []
    if not tripped:
        return "No tripwire was set off (constant scores, cut positives, worse than the base or the first stage)."
    return "\n".join(f"* {sentence}" for sentence in tripped)


def _interval(change: Mapping[str, float] | None) -> list[str]:
    return [f"{change['mean']:+.4f}", f"{change['low']:+.4f} to {change['high']:+.4f}"] if change else ["", ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _block(content: Any) -> str:
    return f"```json\n{json.dumps(content, indent=1, ensure_ascii=False, default=str)}\n```"

"""The model card that is written beside the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finerank import __version__

FRONT = """---
library_name: sentence-transformers
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
EMBEDDER_SNIPPET = """from sentence_transformers import SentenceTransformer

model = SentenceTransformer({folder!r})
passages = ["Paris is the capital of France.", "Bread is baked from flour."]
scores = model.similarity(model.encode_query(["capital of France"]), model.encode_document(passages))
print(scores)
"""


def model_card(
    folder: str, base: str, options: Mapping[str, Any], inputs: Any, counts: Mapping[str, Any], *, reranker: bool
) -> str:
    """Return the card as Markdown: what it is, how to use it, what was measured, from which data and options."""
    kind = "reranker (cross-encoder)" if reranker else "embedder (bi-encoder)"
    snippet = (RERANKER_SNIPPET if reranker else EMBEDDER_SNIPPET).format(folder=folder)
    task = "text-ranking" if reranker else "sentence-similarity"
    parts = [
        FRONT.format(task=task, base=json.dumps(base)),
        f"# A {kind}, tuned from `{base}`\n",
        f"Made by finerank {__version__}.\n",
        f"## Use\n\n```python\n{snippet}```\n",
        f"## Measured on held-out data\n\n{_figures(counts)}\n",
        f"## Data\n\n{counts['rows']:,} rows, {counts['steps']:,} steps.\n\n{_block(inputs)}\n",
        f"## Options\n\n{_block(options)}\n",
    ]
    return "\n".join(parts)


def _figures(counts: Mapping[str, Any]) -> str:
    if not counts["best"]:
        return "Nothing was measured: training ran without `--eval_data`. `finerank evaluate` does it, with intervals."
    lines = ["| | base | tuned | change | 95 % interval of the change |", "|---|---|---|---|---|"]
    for name, value in counts["best"].items():
        before, change = counts["base"].get(name), counts["changes"].get(name)
        cells = [name, "" if before is None else f"{before:.4f}", f"{value:.4f}"]
        cells += [f"{change['mean']:+.4f}", f"{change['low']:+.4f} to {change['high']:+.4f}"] if change else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        "\nPaired bootstrap over the held-out queries. The weights were chosen by these figures, so they flatter; "
        "`finerank evaluate` measures on data that chose nothing, with paired tests."
    )
    return "\n".join(lines)


def _block(content: Any) -> str:
    return f"```json\n{json.dumps(content, indent=1, ensure_ascii=False, default=str)}\n```"

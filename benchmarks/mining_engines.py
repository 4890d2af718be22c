"""One peer mines once, in a process of its own: ``python mining_engines.py ENGINE JOB.json``. See mining_peers.py.

Imports nothing of finerank, so that it runs in a peer's own environment.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

FLAG_EMBEDDING = {"fe": 3000, "fe-32": 32}
"""Engine -> batch size: the mining script's default, and one that suits a CPU."""


def read(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line]


def sentence_transformers(job: dict[str, Any], bf16: bool) -> list[dict[str, Any]]:
    """Mine with ``mine_hard_negatives``, all but the job's own settings at their defaults."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    model = SentenceTransformer(
        job["model"], device="cpu", model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32}
    )
    if job["max_length"] is not None:
        model.max_seq_length = job["max_length"]
    rows = read(job["rows"])
    pairs = {"anchor": [row["query"] for row in rows], "positive": [row["pos"][0] for row in rows]}
    start, stop = job["range"]
    found = mine_hard_negatives(
        Dataset.from_dict(pairs), model, corpus=[entry["text"] for entry in read(job["pool"])], range_min=start,
        range_max=stop, num_negatives=job["number"], sampling_strategy="random", output_format="labeled-list",
    )  # fmt: skip
    texts, labels = (column for column in found.column_names if column != "anchor")
    if found[0][texts] and not isinstance(found[0][texts][0], str):
        texts, labels = labels, texts
    return [
        {"query": row["anchor"], "neg": [text for text, label in zip(row[texts], row[labels]) if not label]}
        for row in found
    ]


def flag_embedding(job: dict[str, Any], batch_size: int) -> list[dict[str, Any]]:
    """Mine as FlagEmbedding documents it: its embedder at the script's defaults, a flat faiss index, a random draw."""
    import faiss
    import numpy as np
    from FlagEmbedding import FlagAutoModel

    length = job["max_length"] or 512
    model = FlagAutoModel.from_finetuned(
        job["model"], model_class="encoder-only-base", pooling_method=job["pooling"], normalize_embeddings=True,
        use_fp16=True, devices=["cpu"], batch_size=batch_size, query_max_length=length, passage_max_length=length,
    )  # fmt: skip
    rows, pool = read(job["rows"]), list({entry["text"] for entry in read(job["pool"])})
    passages = np.asarray(model.encode(pool), dtype=np.float32)
    queries = np.asarray(model.encode_queries([row["query"] for row in rows]), dtype=np.float32)
    index = faiss.IndexFlatIP(passages.shape[1])
    index.add(passages)
    start, stop = job["range"]
    for at in range(0, len(rows), 64):
        for row, ranks in zip(rows[at : at + 64], index.search(queries[at : at + 64], stop)[1].tolist()):
            left = [pool[rank] for rank in ranks[start:] if pool[rank] not in row["pos"] and pool[rank] != row["query"]]
            row["neg"] = random.sample(left, job["number"]) if len(left) > job["number"] else left
    return rows


def main() -> None:
    engine, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    if engine in FLAG_EMBEDDING:
        rows = flag_embedding(job, FLAG_EMBEDDING[engine])
    else:
        rows = sentence_transformers(job, bf16=engine == "st-bf16")
    Path(job["out"]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()

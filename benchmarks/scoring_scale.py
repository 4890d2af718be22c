"""Memory of scoring as the pairs grow: synthetic rows, a tiny reranker, ``finerank score`` as a child process.

    python benchmarks/scoring_scale.py --work DIR [--sizes 1000000 5000000] [--repeats 20] [--out FILE.json]

Every row has ten pairs and comes ``--repeats`` times, far apart, so that the model's part stays small while every pair
is read, numbered and written: what is measured is the streaming. In MiB as in mining_scale.py.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

import orjson
from memory import measured
from mining_scale import WORDS_PER_PASSAGE, WORDS_PER_QUERY, words, write_model

PASSAGES = 10


def write_rows(path: Path, pairs: int, repeats: int) -> None:
    """Write pairs / 10 rows; the distinct ones come one after the other, again and again."""
    vocabulary, rng = words(), random.Random(1)
    lines = []
    for _ in range(pairs // PASSAGES // repeats):
        texts = [" ".join(rng.choices(vocabulary, k=WORDS_PER_PASSAGE)) for _ in range(PASSAGES)]
        query = " ".join(rng.choices(vocabulary, k=WORDS_PER_QUERY))
        lines.append(orjson.dumps({"query": query, "pos": texts[:1], "neg": texts[1:]}) + b"\n")
    with path.open("wb") as file:
        for _ in range(repeats):
            file.writelines(lines)


def write_reranker(folder: Path) -> None:
    """Write a seeded one-layer cross-encoder."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    write_model(folder.with_name("embedder"), 32, 1)
    plain = folder.with_name("embedder-plain")
    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(plain, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(plain).save_pretrained(folder)


def one_size(pairs: int, repeats: int, work: Path) -> dict[str, Any]:
    rows, out = work / f"rows-{pairs}.jsonl", work / f"out-{pairs}.jsonl"
    write_rows(rows, pairs, repeats)
    result = measured(
        [
            sys.executable, "-m", "finerank", "score", "--reranker_name_or_path", str(work / "reranker"),
            "--input_file", str(rows), "--output_file", str(out), "--overwrite", "--device", "cpu", "--dtype",
            "float32",
        ],
        work / f"log-{pairs}.txt",
    )  # fmt: skip
    rows.unlink()
    out.unlink(missing_ok=True)
    return result | {"pairs": pairs, "distinct": pairs // repeats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    write_reranker(options.work / "reranker")
    results = []
    for pairs in options.sizes:
        results.append(one_size(pairs, options.repeats, options.work))
        print(json.dumps(results[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps({"sizes": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""How encoding, scoring and mining grow with 1, 2 and 4 times the texts: 1.00 per doubling is linear.

    python benchmarks/growth.py --model M --reranker R --texts BEIR_DIR [--count 400] [--rounds 5] [--out FILE.json]

All three sizes hold the same lengths (every fourth text, every second, all), run in turn in each round, in one
process. What a job costs beside its texts (loading a model) is measured with two texts and taken off. Given is the
growth of the median seconds per doubling over that of the tokens; for ``mine`` rows and pool grow together.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from roofline import texts_of

SHARES = (1, 2, 4)
QUERY = "what is known about it ?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="an embedder")
    parser.add_argument("--reranker", required=True, help="a cross-encoder")
    parser.add_argument("--texts", type=Path, help="BEIR folder or JSONL of texts (default: this repository's words)")
    parser.add_argument("--count", type=int, default=400, help="texts of the largest size")
    parser.add_argument("--max_len", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--works", nargs="+", default=["encode", "score", "mine"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = list(dict.fromkeys(itertools.islice(texts_of(options.texts), options.count)))
    from finerank.models.load import load_encoder

    encoder = load_encoder(options.model, passage_max_len=options.max_len)
    tokens = {text: len(cut.ids) for text, cut in zip(texts, encoder.tokens(texts, "passage"))}
    result = {}
    known = jobs(options, encoder)
    for name in options.works:
        result[name] = growth(known[name], tokens, options.rounds)
        found = ", ".join(f"{each:.3f}" for each in result[name]["growth_per_doubling"])
        print(f"{name}: {found} of linear per doubling", flush=True)
    if options.out:
        settings = {key: str(value) for key, value in vars(options).items() if key != "out"}
        options.out.write_text(json.dumps({"settings": settings, **result}, indent=1) + "\n", encoding="utf-8")


def jobs(options: argparse.Namespace, encoder: Any) -> dict[str, Callable[[Sequence[str]], Any]]:
    """Return work -> what does it with some texts."""
    from finerank import MineOptions, mine
    from finerank.models.load import load_scorer

    scorer = load_scorer(options.reranker, max_len=options.max_len)

    def mined(texts: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            rows = Path(folder, "rows.jsonl")
            # Each text is a row's passage, so that all of them are the pool.
            lines = [json.dumps({"query": f"{QUERY} {text[:40]}", "pos": [text], "neg": []}) for text in texts]
            rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
            given = MineOptions(
                model_name_or_path=options.model, input_file=[str(rows)], output_file=f"{folder}/mined.jsonl",
                range_for_sampling="1-20", negative_number=5, embedding_cache="none",
                embedder_passage_max_length=options.max_len,
            )  # fmt: skip
            mine(given)

    return {
        "encode": lambda texts: encoder.encode(texts, "passage"),
        "score": lambda texts: scorer.score([(QUERY, text) for text in texts]),
        "mine": mined,
    }


def growth(job: Callable[[Sequence[str]], Any], tokens: dict[str, int], rounds: int) -> dict[str, Any]:
    """Time ``job`` with each share of the texts, in turn.

    Args:
        tokens: text -> what of it is read.
    """
    texts = list(tokens)
    parts: dict[int, list[str]] = {0: texts[:2], **{share: texts[:: max(SHARES) // share] for share in SHARES}}
    seconds: dict[int, list[float]] = {share: [] for share in parts}
    for turn in range(rounds + 1):
        for share, part in parts.items():
            start = time.perf_counter()
            job(part)
            if turn > 0:
                seconds[share].append(time.perf_counter() - start)
    size = {share: sum(map(tokens.__getitem__, part)) for share, part in parts.items()}
    median = {share: statistics.median(each) for share, each in seconds.items()}
    net = {share: median[share] - median[0] for share in SHARES}
    doublings = [
        (net[2 * share] / net[share]) / ((size[2 * share] - size[0]) / (size[share] - size[0])) for share in SHARES[:-1]
    ]
    return {
        "texts": {share: len(part) for share, part in parts.items()}, "tokens": size, "seconds": seconds,
        "growth_per_doubling": doublings,
    }  # fmt: skip


if __name__ == "__main__":
    main()

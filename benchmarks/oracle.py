"""How often the rule oracle agrees with gold: supporting facts of a judged multi-hop set, no model.

    python benchmarks/oracle.py DATA [--output_file OUT.json]

DATA is a BEIR folder whose queries have two relevant documents each (HotpotQA). For every query either of the two is
the source; candidates are the ten best of BM25 for the query, without the source, and the other document. Gold says
positive for the other document and negative for the rest. The oracle says positive if it does so for one of the
source's entities, negative if it does for all of them, and otherwise that it cannot tell.

Thresholds are tried on the split ``train`` only; ``test`` is reported with them, beside two plainer rules.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finerank.data.console import table
from finerank.data.documents import Documents, open_documents
from finerank.generation.entities import EntityIndex, build_index
from finerank.generation.judged_queries import judged_queries
from finerank.generation.mentions import key_of, shows
from finerank.generation.oracle import RuleOracle, Thresholds
from finerank.retrieval.bm25 import Bm25Retriever

CANDIDATES = 10
ENTITIES = 6
GRID = {"context": (0.0, 0.03, 0.1), "likeness": (0.5, 0.7), "new_words": (3, 8)}
RESAMPLES = 2000


class Pair(NamedTuple):
    """A source, a candidate, and what gold says; ``query`` groups pairs for the intervals."""

    query: int
    source: int
    candidate: int
    positive: bool


def pairs_of(documents: Documents, bm25: Bm25Retriever, folder: str, split: str) -> list[Pair]:
    """Return the pairs of one split."""
    found = []
    queries = [query for query in judged_queries(documents, folder, split) if len(query.relevant) == 2]
    ranked = bm25.search([query.text for query in queries], CANDIDATES + 1)
    for number, (query, (positions, _)) in enumerate(zip(queries, ranked)):
        for source, other in (query.relevant, query.relevant[::-1]):
            chosen = [n for n in positions.tolist() if n not in (source, other)][:CANDIDATES]
            found += [Pair(number, source, n, n == other) for n in [other, *chosen]]
    return found


def judge(oracle: RuleOracle, names: Sequence[str], source: int, candidate: int) -> str:
    """Return the verdict over a source's entities."""
    verdicts = {oracle.connects(source, name, candidate).verdict for name in names}
    if "positive" in verdicts:
        return "positive"
    return "negative" if verdicts <= {"negative"} else "unknown"


def names_of(index: EntityIndex, documents: Documents, number: int) -> list[str]:
    """Return a source's best entities, then its title, by which other documents may speak of it."""
    title = documents[number].title
    return [mention.name for mention in index.ranked(number)[:ENTITIES]] + ([title] if title else [])


def scores(pairs: Sequence[Pair], verdicts: Sequence[str]) -> dict[str, float]:
    """Return agreement on what is told, precision and recall of the positives, and the share that is not told."""
    told = [(pair.positive, verdict == "positive") for pair, verdict in zip(pairs, verdicts) if verdict != "unknown"]
    hits = sum(gold and said for gold, said in told)
    said = sum(said for _, said in told)
    gold = sum(pair.positive for pair in pairs)
    negatives = [gold for gold, said in told if not said]
    return {
        "pairs": len(pairs),
        "agreement": sum(gold == said for gold, said in told) / max(1, len(told)),
        "precision": hits / max(1, said),
        "recall": hits / max(1, gold),
        "negatives right": sum(not gold for gold in negatives) / max(1, len(negatives)),
        "unknown": 1 - len(told) / max(1, len(pairs)),
    }


def interval(pairs: Sequence[Pair], verdicts: Sequence[str], name: str) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of one score, whole queries drawn."""
    groups: dict[int, list[int]] = {}
    for place, pair in enumerate(pairs):
        groups.setdefault(pair.query, []).append(place)
    rng, members = np.random.default_rng(0), list(groups.values())
    values = []
    for _ in range(RESAMPLES if len(pairs) < 1000 else RESAMPLES // 10):
        chosen = [place for group in rng.integers(0, len(members), len(members)) for place in members[group]]
        values.append(scores([pairs[p] for p in chosen], [verdicts[p] for p in chosen])[name])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def calibrated(
    index: EntityIndex, documents: Documents, pairs: Sequence[Pair], names: dict[int, list[str]]
) -> Thresholds:
    """Return the thresholds with the best F1 of the positives on ``pairs``; of equals, the first."""
    best, most = Thresholds(), -1.0
    for values in product(*GRID.values()):
        limits = Thresholds(**dict(zip(GRID, values)))
        oracle = RuleOracle(index, documents, limits)
        found = scores(pairs, [judge(oracle, names[pair.source], pair.source, pair.candidate) for pair in pairs])
        both = 2 * found["precision"] * found["recall"] / max(1e-9, found["precision"] + found["recall"])
        if both > most:
            best, most = limits, both
    return best


def main(argv: Sequence[str] | None = None) -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("--output_file", metavar="OUT.json")
    given = parser.parse_args(argv)
    started = time.monotonic()
    documents = open_documents(given.data)
    index, bm25 = build_index(documents, "en"), Bm25Retriever(documents.passages())
    pairs = {split: pairs_of(documents, bm25, given.data, split) for split in ("train", "test")}
    sources = {pair.source for part in pairs.values() for pair in part}
    names = {source: names_of(index, documents, source) for source in sources}
    limits = calibrated(index, documents, pairs["train"], names)
    print(f"thresholds from train: {limits}", file=sys.stderr)
    oracle = RuleOracle(index, documents, limits)
    texts = {number: documents[number].passage for part in pairs.values() for pair in part for number in pair[1:3]}
    rules: dict[str, Callable[[Pair], str]] = {
        "rule oracle": lambda pair: judge(oracle, names[pair.source], pair.source, pair.candidate),
        "an entity stands there": lambda pair: (
            "positive" if any(shows(texts[pair.candidate], name) for name in names[pair.source]) else "negative"
        ),
        "an entity is its title": lambda pair: (
            "positive"
            if key_of(documents[pair.candidate].title) in {key_of(name) for name in names[pair.source]}
            else "negative"
        ),
        "always negative": lambda pair: "negative",
    }
    result: dict[str, object] = {"thresholds": asdict(limits)}
    lines = []
    for split, part in pairs.items():
        for name, rule in rules.items():
            verdicts = [rule(pair) for pair in part]
            found = scores(part, verdicts)
            low, high = interval(part, verdicts, "agreement")
            lines.append(
                [
                    split,
                    name,
                    *(f"{value:.3f}" for key, value in found.items() if key != "pairs"),
                    f"[{low:.3f}, {high:.3f}]",
                ]
            )
            result[f"{split}, {name}"] = found | {"agreement_interval": [low, high]}
    headers = ["split", "rule", "agreement", "precision", "recall", "negatives right", "unknown", "agreement, 95 %"]
    print(table(headers, lines))
    print(
        f"{len(pairs['train']):,} pairs of train, {len(pairs['test']):,} of test, {time.monotonic() - started:.0f} s",
        file=sys.stderr,
    )
    if given.output_file:
        Path(given.output_file).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How mined rows are spread: cosines of positives and negatives, ranks of the negatives, a few rows to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finerank.core.records import Row
from finerank.retrieval.mining import Mined

BINS = 80
"""Equal bins of the cosines' range, [-1, 1]."""
RANK_BOUNDS = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1_000, 10_000)
"""First ranks, from 1, of the classes that ranks are counted in."""
ROWS_PER_SHARD, MOST_ROWS = 4, 12
KEPT_NEGATIVES = 10


class Shapes:
    """Counts of one shard; ``to_mapping`` is what its file keeps."""

    def __init__(self) -> None:
        self.positive = np.zeros(BINS, dtype=np.int64)
        self.negative = np.zeros(BINS, dtype=np.int64)
        self.ranks = np.zeros(len(RANK_BOUNDS), dtype=np.int64)
        self.rows: list[dict[str, Any]] = []

    def add(self, mined: Mined) -> None:
        """Count one row."""
        self.positive += _binned(mined.pos_similarities)
        self.negative += _binned(mined.neg_similarities)
        if mined.selection.ranks:
            classes = np.searchsorted(RANK_BOUNDS, np.asarray(mined.selection.ranks) + 1, side="right") - 1
            self.ranks += np.bincount(classes, minlength=len(RANK_BOUNDS))
        if len(self.rows) < ROWS_PER_SHARD and mined.selection.positions:
            similarities = mined.selection.similarities
            self.rows.append(
                {
                    "row": mined.index,
                    "positive_similarity": mined.pos_similarities[0] if mined.pos_similarities else None,
                    "negatives": [
                        [position, similarities[place] if similarities else None]
                        for place, position in enumerate(mined.selection.positions[:KEPT_NEGATIVES])
                    ],
                }
            )

    def to_mapping(self) -> dict[str, Any]:
        """Return plain JSON values; equal rows give equal values."""
        return {
            "positive": self.positive.tolist(), "negative": self.negative.tolist(),
            "ranks": self.ranks.tolist(), "rows": self.rows,
        }  # fmt: skip


def total(shards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add shards up; the rows to read are of the first and the following shards in turn."""
    turns = [shard["rows"][place] for place in range(ROWS_PER_SHARD) for shard in shards if place < len(shard["rows"])]
    return {
        "positive": [sum(bins) for bins in zip(*(shard["positive"] for shard in shards))],
        "negative": [sum(bins) for bins in zip(*(shard["negative"] for shard in shards))],
        "ranks": [sum(classes) for classes in zip(*(shard["ranks"] for shard in shards))],
        "rows": turns[:MOST_ROWS],
    }


def texts(found: Mapping[str, Any], rows: Sequence[Row], pool: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows to read with their texts."""
    return [
        {
            "query": rows[one["row"]].query,
            "where": rows[one["row"]].where,
            "positive": rows[one["row"]].positives[0],
            "positive_similarity": one["positive_similarity"],
            "negatives": [(pool[position], similarity) for position, similarity in one["negatives"]],
        }
        for one in found.get("rows", [])
    ]


def rank_classes(counts: Sequence[int]) -> list[tuple[str, int]]:
    """Return the classes of ranks with names, from the first to the last that holds any.

    >>> rank_classes([0, 0, 0, 4, 2] + [0] * 8)
    [('5–9', 4), ('10–19', 2)]
    """
    ends = [*RANK_BOUNDS[1:], None]
    names = [
        f"{low:,}+" if high is None else f"{low:,}" if high == low + 1 else f"{low:,}–{high - 1:,}"
        for low, high in zip(RANK_BOUNDS, ends)
    ]
    held = [place for place, count in enumerate(counts) if count]
    return [(names[place], counts[place]) for place in range(held[0], held[-1] + 1)] if held else []


def _binned(cosines: Sequence[float]) -> Any:
    return np.histogram(np.clip(cosines, -1.0, 1.0), BINS, (-1.0, 1.0))[0] if cosines else np.int64(0)

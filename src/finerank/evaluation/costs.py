"""What an arm costs: pairs scored and texts encoded, which are always the same, and seconds, which never are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """One arm's needs.

    Attributes:
        pairs: pairs that a reranker scores, over all queries.
        texts: texts that an embedder encodes, passages and queries.
        index_seconds: indexing or encoding the corpus, once.
        seconds: for all queries: searching, then scoring.
    """

    pairs: int = 0
    texts: int = 0
    index_seconds: float = 0.0
    seconds: float = 0.0


def cost_data(costs: Mapping[str, Cost], queries: int) -> dict[str, Any]:
    """Return what does not change from run to run."""
    return {
        name: {"pairs": cost.pairs, "texts": cost.texts, "pairs_per_query": round(cost.pairs / max(1, queries), 3)}
        for name, cost in costs.items()
    }


def times_data(costs: Mapping[str, Cost], queries: int) -> dict[str, Any]:
    """Return what does."""
    return {
        name: {
            "index_seconds": round(cost.index_seconds, 2), "seconds": round(cost.seconds, 2),
            "ms_per_query": ms_per_query(cost.seconds, queries),
        }
        for name, cost in costs.items()
    }  # fmt: skip


def ms_per_query(seconds: float, queries: int) -> float:
    """Return milliseconds a query.

    >>> ms_per_query(0.5, 20)
    25.0
    """
    return round(1000.0 * seconds / max(1, queries), 2)

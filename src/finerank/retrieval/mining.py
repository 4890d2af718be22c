"""Mine rows in blocks: search the pool for their queries, apply the rules of ``negatives``, search deeper when short.

Each row's result depends on the row, its index, the pool and the seed only; not on the block it came in.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finerank.core.protocols import Encoder, Progress
from finerank.core.records import Row
from finerank.core.seeding import stream
from finerank.retrieval.dense import QUERY_BLOCK, exact_scores, top_k
from finerank.retrieval.negatives import Known, Ranking, Rules, Selection, identity, keep, select
from finerank.retrieval.vectors import cached_encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

DECIMALS = 6
"""Cosines are compared and written with this many decimals, so that the file shows what was decided on."""
DEEPER = 4
Meter = Callable[[int, str], AbstractContextManager[Progress]]
"""``progress`` of data.console: total and label -> a context that gives ``update(n)``."""


@dataclass(frozen=True)
class Setup:
    """How to search and what to keep.

    Attributes:
        cosine: rank by cosine; False ranks by inner product. The rules always compare cosines.
        keep_negatives: a row's own negatives stay, before mined ones.
        cache: folder of the vector cache, or None.
        device, query_block: where and in what pieces the products run; never the result.
    """

    rules: Rules
    seed: int
    cosine: bool = True
    keep_negatives: bool = False
    cache: Path | None = None
    device: str = "cpu"
    query_block: int = QUERY_BLOCK


@dataclass(frozen=True)
class Mined:
    """What mining found for one row; similarities are cosines to the row's query.

    Attributes:
        kept: the row's own negatives that stay, with ``kept_similarities``.
        mined: texts chosen from the pool, aligned with ``selection.similarities``.
    """

    row: Row
    kept: list[str]
    kept_similarities: list[float]
    mined: list[str]
    selection: Selection
    pos_similarities: list[float]

    @property
    def negatives(self) -> list[str]:
        return self.kept + self.mined

    @property
    def neg_similarities(self) -> list[float]:
        return self.kept_similarities + self.selection.similarities


class Miner:
    """Hold the vectors of queries, pool and positives, and mine any block of rows.

    Args:
        rows: all rows; a positive of any of them with the same query is a positive.
        pool: distinct passages to take negatives from; read by position, never held (``retrieval.pool``).
        encoder: gives the vectors; each distinct text is encoded once per side.
        meter: opens a progress report for each pass over texts.
    """

    def __init__(self, rows: Sequence[Row], pool: Sequence[str], encoder: Encoder, setup: Setup, meter: Meter) -> None:
        self.rows = rows
        self.pool = pool
        self.setup = setup
        self.identities = array("Q", map(identity, pool))
        self._query_marks = [identity(row.query) for row in rows]
        self._positive_marks = [frozenset(map(identity, row.positives)) for row in rows]
        self._same_query: dict[int, frozenset[int]] = {}
        for mark, positives in zip(self._query_marks, self._positive_marks):
            self._same_query[mark] = self._same_query.get(mark, frozenset()) | positives
        self._passage_row, outside = self._needed()
        self._query_row = _positions([row.query for row in rows])
        self._passages = _encode(encoder, pool, "passage", setup.cache, meter)
        self._outside = _encode(encoder, outside, "passage", setup.cache, meter)
        self._queries = _encode(encoder, list(self._query_row), "query", setup.cache, meter)

    def mine(self, start: int, stop: int) -> list[Mined]:
        """Return the results of rows [start, stop), in order."""
        own = {index: self._own(index) for index in range(start, min(stop, len(self.rows)))}
        done: dict[int, Mined] = {}
        rules = self.setup.rules
        depth = rules.stop + (rules.number if rules.pad else 0)
        waiting = list(own)
        while waiting:
            rankings = self._rank(waiting, depth)
            for index in waiting:
                known, kept, cosines = own[index]
                rng = stream(self.setup.seed, "mine", index)
                chosen = select(rankings[index], self.identities, known, rules, rng, len(self.pool))
                texts = [self.pool[position] for position in chosen.positions]
                done[index] = Mined(self.rows[index], kept, cosines[1], texts, chosen, cosines[0])
            waiting = [index for index in waiting if done[index].selection.wants_more]
            depth *= DEEPER
        return [done[index] for index in own]

    def _needed(self) -> tuple[dict[str, int], list[str]]:
        """Return where the passages of the rows themselves have their vectors, and those that the pool lacks.

        A place below the pool's size is a place in the pool, the others follow it.
        """
        rows = {
            text: -1
            for row in self.rows
            for text in (*row.positives, *(row.negatives if self.setup.keep_negatives else ()))
        }
        for position, text in enumerate(self.pool):
            if text in rows:
                rows[text] = position
        outside = [text for text, position in rows.items() if position < 0]
        return rows | {text: len(self.pool) + place for place, text in enumerate(outside)}, outside

    def _own(self, index: int) -> tuple[Known, list[str], tuple[list[float], list[float]]]:
        """Return what is known of a row, its kept negatives, and the cosines of its positives and of those."""
        row = self.rows[index]
        mark = self._query_marks[index]
        same = self._same_query[mark]
        kept = keep(row.negatives, same, mark) if self.setup.keep_negatives else []
        positive, negative = self._cosines(index, row.positives), self._cosines(index, kept)
        known = Known(self._positive_marks[index], same, mark, min(positive), tuple(map(identity, kept)))
        return known, kept, (positive, negative)

    def _cosines(self, index: int, texts: Sequence[str]) -> list[float]:
        query = self._queries[self._query_row[self.rows[index].query]]
        passages = [self._passage(self._passage_row[text]) for text in texts]
        return _rounded(exact_scores(query, np.stack(passages), cosine=True)) if passages else []

    def _passage(self, place: int) -> Vectors:
        inside = len(self.pool)
        vector: Vectors = self._passages[place] if place < inside else self._outside[place - inside]
        return vector

    def _rank(self, waiting: Sequence[int], depth: int) -> dict[int, Ranking]:
        """Search once for each distinct query of some rows."""
        queries = _positions([self.rows[index].query for index in waiting])
        vectors = self._queries[[self._query_row[query] for query in queries]]
        pool, setup = self._passages, self.setup
        found = top_k(vectors, pool, depth, cosine=setup.cosine, device=setup.device, query_block=setup.query_block)
        rankings = [
            Ranking(
                positions.tolist(),
                _rounded(scores if setup.cosine else exact_scores(query, pool[positions], cosine=True)),
            )
            for query, positions, scores in zip(vectors, *found)
        ]
        return {index: rankings[queries[self.rows[index].query]] for index in waiting}


def _encode(encoder: Encoder, texts: Sequence[str], side: str, cache: Path | None, meter: Meter) -> Vectors:
    if not texts:
        return np.empty((0, encoder.dimension), dtype=np.float32)
    label = "encoding passages" if side == "passage" else "encoding queries"
    with meter(len(texts), label) as update:
        return cached_encode(encoder, texts, "passage" if side == "passage" else "query", cache, update)


def _positions(texts: Sequence[str]) -> dict[str, int]:
    """Number the distinct texts in first-seen order."""
    return {text: position for position, text in enumerate(dict.fromkeys(texts))}


def _rounded(scores: NDArray[np.float32]) -> list[float]:
    scale = 10.0**DECIMALS
    rounded: list[float] = (np.rint(scores.astype(np.float64) * scale) / scale + 0.0).tolist()
    return rounded

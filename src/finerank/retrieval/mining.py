"""Mine rows in blocks: rank the pool for their queries, apply the rules of ``negatives``, search deeper when short.

Each row's result depends on the row, its index, the pool and the seed only; not on the block it came in.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finerank.core.protocols import Encoder, Pair, Scorer
from finerank.core.records import Row
from finerank.core.seeding import stream
from finerank.retrieval.cosines import CandidateCosines, Cosines, Meter, NoCosines, PoolCosines, numbered
from finerank.retrieval.dense import QUERY_BLOCK
from finerank.retrieval.diverse import Weights, diversify
from finerank.retrieval.false_negatives import Bounds, Judgement, Picked, Request, judge, score_pairs
from finerank.retrieval.hybrid import RRF_K
from finerank.retrieval.negatives import (
    Known,
    Prefer,
    Proposal,
    Ranking,
    Rules,
    Selection,
    identity,
    keep,
    propose,
    settle,
)
from finerank.retrieval.rankers import BM25, DENSE, Ranker, make_ranker

if TYPE_CHECKING:
    from finerank.retrieval.ann import Kind

DEEPER = 4
Scores = dict[Pair, float]


@dataclass(frozen=True)
class Setup:
    """How to search and what to keep.

    Attributes:
        cosine: rank by cosine; False ranks by inner product. The rules always compare cosines.
        keep_negatives: a row's own negatives stay, before mined ones.
        cache: folder of the vector cache, or None.
        device, query_block: where and in what pieces the products run; never the result.
        retriever: ``dense``, ``bm25`` or ``hybrid``.
        index: kind of a faiss index to search instead of comparing every vector, or None.
        segmenter: how BM25 cuts Chinese (``retrieval.segment``), resolved.
        rrf_k: constant of the fusion.
        diverse: choose among the candidates by the diverse retriever; None by ``rules.sampling``.
        scorer, bounds: a reranker and what it says of false negatives.
    """

    rules: Rules
    seed: int
    cosine: bool = True
    keep_negatives: bool = False
    cache: Path | None = None
    device: str = "cpu"
    query_block: int = QUERY_BLOCK
    retriever: str = DENSE
    index: Kind | None = None
    segmenter: str = "bigrams"
    rrf_k: float = RRF_K
    diverse: Weights | None = None
    scorer: Scorer | None = None
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True)
class Mined:
    """What mining found for one row; similarities are cosines to the row's query, empty without an embedder.

    Attributes:
        kept: the row's own negatives that stay, with ``kept_similarities``.
        mined: texts chosen from the pool, aligned with ``selection.positions``.
        index: number of the row.
        ranks: side -> 0-based rank on that side of each of ``mined``, None where that side did not find it.
        relabelled: texts of the pool that became positives; ``pos_similarities`` holds theirs too, last.
        pos_scores, neg_scores: the reranker's, of all positives and negatives; None without one.
    """

    row: Row
    kept: list[str]
    kept_similarities: list[float]
    mined: list[str]
    selection: Selection
    pos_similarities: list[float]
    index: int = 0
    ranks: dict[str, list[int | None]] = field(default_factory=dict)
    relabelled: list[str] = field(default_factory=list)
    pos_scores: list[float] | None = None
    neg_scores: list[float] | None = None

    @property
    def positives(self) -> list[str]:
        return [*self.row.positives, *self.relabelled]

    @property
    def negatives(self) -> list[str]:
        return self.kept + self.mined

    @property
    def neg_similarities(self) -> list[float]:
        return self.kept_similarities + self.selection.similarities


@dataclass(frozen=True)
class Own:
    """What a row brings along: its identities, the negatives it keeps, the cosines of its positives and of those."""

    known: Known
    kept: list[str]
    positive: list[float]
    negative: list[float]


class Miner:
    """Hold what ranks the pool, and mine any block of rows.

    Args:
        rows: all rows; a positive of any of them with the same query is a positive.
        pool: distinct passages to take negatives from; read by position, never held (``retrieval.pool``).
        encoder: gives the vectors; each distinct text is encoded once per side. BM25 can do without.
        meter: opens a progress report for each pass over texts.
    """

    def __init__(
        self, rows: Sequence[Row], pool: Sequence[str], encoder: Encoder | None, setup: Setup, meter: Meter
    ) -> None:
        self.rows = rows
        self.pool = pool
        self.setup = setup
        self.identities = array("Q", map(identity, pool))
        self._query_marks = [identity(row.query) for row in rows]
        self._positive_marks = [frozenset(map(identity, row.positives)) for row in rows]
        self._same_query: dict[int, frozenset[int]] = {}
        for mark, positives in zip(self._query_marks, self._positive_marks):
            self._same_query[mark] = self._same_query.get(mark, frozenset()) | positives
        self.cosines = _cosines(rows, pool, encoder, setup, meter)
        self.ranker: Ranker = make_ranker(
            setup.retriever, self.cosines, pool, seed=setup.seed, segmenter=setup.segmenter, k=setup.rrf_k,
            cosine=setup.cosine,
        )  # fmt: skip

    def mine(self, start: int, stop: int) -> list[Mined]:
        """Return the results of rows [start, stop), in order."""
        block = range(start, min(stop, len(self.rows)))
        self.cosines.begin([self.rows[index] for index in block], self.setup.keep_negatives)
        own = {index: self._own(index) for index in block}
        done: dict[int, Mined] = {}
        scores: Scores = {}
        rules = self.setup.rules
        depth = rules.stop + (rules.number if rules.pad else 0)
        waiting = list(own)
        while waiting:
            rankings = self._rank(waiting, depth)
            done |= self._choose(rankings, own, scores)
            waiting = [index for index in waiting if done[index].selection.wants_more]
            depth *= DEEPER
        return self._scored([done[index] for index in own], scores)

    def _own(self, index: int) -> Own:
        """Look up what a row's choice depends on."""
        row = self.rows[index]
        mark = self._query_marks[index]
        same = self._same_query[mark]
        kept = keep(row.negatives, same, mark) if self.setup.keep_negatives else []
        positive, negative = (self.cosines.own(row.query, texts) for texts in (row.positives, kept))
        lowest = min(positive, default=float("inf"))
        known = Known(self._positive_marks[index], same, mark, lowest, tuple(map(identity, kept)))
        return Own(known, kept, positive, negative)

    def _rank(self, waiting: Sequence[int], depth: int) -> dict[int, Ranking]:
        """Search once for each distinct query of some rows."""
        queries = numbered(self.rows[index].query for index in waiting)
        rankings = self.ranker.rank(list(queries), depth)
        return {index: rankings[queries[self.rows[index].query]] for index in waiting}

    def _choose(self, rankings: dict[int, Ranking], own: dict[int, Own], scores: Scores) -> dict[int, Mined]:
        """Apply the rules to some rows; a reranker sees the candidates of all of them together."""
        rules, judged = self.setup.rules, self.setup.scorer is not None
        proposals = {}
        for index, ranking in rankings.items():
            rng = stream(self.setup.seed, "mine", index)
            prefer = self._prefer(index, ranking)
            proposals[index] = propose(
                ranking, self.identities, own[index].known, rules, rng, judged=judged, prefer=prefer
            )
        judgements = self._judge(rankings, proposals, scores)
        found = {}
        for index, ranking in rankings.items():
            selection = settle(proposals[index], ranking, rules, len(self.pool), judgements.get(index))
            found[index] = self._mined(index, own[index], ranking, selection)
        return found

    def _prefer(self, index: int, ranking: Ranking) -> Prefer | None:
        """Return what chooses among a row's candidates, its positives being the source; None for its stream."""
        given, row = self.setup.diverse, self.rows[index]
        if given is None:
            return None

        def prefer(survivors: Sequence[int], number: int) -> list[int]:
            relevance = np.array([ranking.similarities[rank] for rank in survivors], dtype=np.float32)
            vectors = self.cosines.vectors_at(np.array([ranking.positions[rank] for rank in survivors], dtype=np.int64))
            places, _ = diversify(relevance, vectors, self.cosines.vectors_of(row.positives), number, given)
            return [survivors[place] for place in places.tolist()]

        return prefer

    def _judge(
        self, rankings: dict[int, Ranking], proposals: dict[int, Proposal], scores: Scores
    ) -> dict[int, Judgement]:
        """Ask the reranker, if there is one, about the candidates of some rows."""
        if self.setup.scorer is None:
            return {}
        requests = []
        for index, proposal in proposals.items():
            positions = [rankings[index].positions[rank] for rank in proposal.order]
            row = self.rows[index]
            requests.append(Request(row.query, row.positives, Picked(self.pool, positions), proposal.wanted))
        return dict(zip(proposals, judge(requests, self.setup.scorer, self.setup.bounds, scores)))

    def _mined(self, index: int, own: Own, ranking: Ranking, selection: Selection) -> Mined:
        relabelled = [ranking.positions[rank] for rank in selection.relabelled]
        similarities = ranking.similarities
        return Mined(
            self.rows[index],
            own.kept,
            own.negative,
            [self.pool[position] for position in selection.positions],
            selection,
            own.positive + [similarities[rank] for rank in selection.relabelled if similarities],
            index,
            {side: [ranks[rank] for rank in selection.ranks] for side, ranks in ranking.ranks.items()},
            [self.pool[position] for position in relabelled],
        )

    def _scored(self, block: Sequence[Mined], scores: Scores) -> list[Mined]:
        """Add the reranker's scores of all positives and negatives, where there is one."""
        if self.setup.scorer is None:
            return list(block)
        pairs = [[(mined.row.query, text) for text in (*mined.positives, *mined.negatives)] for mined in block]
        score_pairs([pair for row in pairs for pair in row], self.setup.scorer, scores)
        found = []
        for mined, row in zip(block, pairs):
            values = [scores[pair] for pair in row]
            count = len(mined.positives)
            found.append(replace(mined, pos_scores=values[:count], neg_scores=values[count:]))
        return found


def _cosines(rows: Sequence[Row], pool: Sequence[str], encoder: Encoder | None, setup: Setup, meter: Meter) -> Cosines:
    """Return what gives cosines: the whole pool's vectors where they are searched, the candidates' where not."""
    if encoder is None:
        return NoCosines()
    if setup.retriever == BM25:
        return CandidateCosines(pool, encoder, setup.cache, meter)
    found = PoolCosines(
        rows, pool, encoder, setup.cache, meter, keep_negatives=setup.keep_negatives, cosine=setup.cosine,
        device=setup.device, query_block=setup.query_block,
    )  # fmt: skip
    if setup.index is not None:
        from finerank.retrieval.ann import FaissSearcher

        with meter(len(pool), "indexing passages") as update:
            found.index = FaissSearcher(
                found.vectors, setup.index, cosine=setup.cosine, seed=setup.seed, progress=update
            )
    return found

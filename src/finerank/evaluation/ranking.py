"""From models to runs: a first stage over a judged set, a reranker over its candidates, any model over rows.

Knows the protocols only. A reranker scores exactly the candidates that its first stage found: a relevant passage
that was missed stays missed in both arms (appending missed ones to one side is how reported gains get inflated).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finerank.core.protocols import AnyPair, Encoder, Pair, Progress, Retriever, Scorer
from finerank.core.records import Group
from finerank.core.runs import Run, top
from finerank.core.seeding import stream
from finerank.data.sources import Judged
from finerank.evaluation.fusion_store import query_digests
from finerank.evaluation.metrics import check_scores
from finerank.evaluation.prompted_texts import PromptedTexts, written
from finerank.evaluation.rows import RowSet
from finerank.retrieval.bm25 import Bm25Retriever
from finerank.retrieval.vectors import Embeds, cached_encode

NORM_FLOOR = 1e-12


def search_run(
    retriever: Retriever, judged: Judged, k: int, progress: Progress | None = None, *, drop_zero: bool = False
) -> Run:
    """Search every judged query.

    Args:
        drop_zero: leave out passages scored 0 or less: for BM25 those share no word with the query, and their order
            says nothing.
    """
    run: Run = {}
    for query_id, (positions, scores) in zip(judged.query_ids, retriever.search(judged.queries, k)):
        check_scores(map(float, scores), f'query "{query_id}"')
        run[query_id] = {
            judged.passage_ids[position]: float(score)
            for position, score in zip(positions, scores)
            if score > 0 or not drop_zero
        }
        if progress:
            progress(1)
    return run


def rerank_run(scorer: Scorer, judged: Judged, first: Run, k: int, progress: Progress | None = None) -> Run:
    """Score each query's ``k`` best candidates of the first stage."""
    texts = dict(zip(judged.passage_ids, judged.passages))
    kept = {query_id: list(top(first.get(query_id, {}), k)) for query_id in judged.query_ids}
    pairs = [
        (query, texts[passage])
        for query_id, query in zip(judged.query_ids, judged.queries)
        for passage in kept[query_id]
    ]
    scores = iter(score_pairs(scorer, pairs, progress))
    return {query_id: {passage: float(next(scores)) for passage in passages} for query_id, passages in kept.items()}


def score_pairs(scorer: Scorer, pairs: Sequence[Pair], progress: Progress | None = None) -> NDArray[np.float32]:
    """Score every distinct pair once; return scores [N] in the order of ``pairs``."""
    return _each_once(lambda distinct: scorer.score(distinct, progress), pairs)


def score_groups(scorer: Scorer, groups: Sequence[Group], progress: Progress | None = None) -> NDArray[np.float32]:
    """Score the pairs of all groups [N], one group after another, as a training on them reads them."""
    if not any(group.prompted for group in groups):
        return score_pairs(scorer, _bare(groups), progress)
    pairs = [pair for group in groups for pair in scorer.pairs_of(group)]
    return _each_once(lambda distinct: scorer.score(distinct, progress, placed=True), pairs)


def _each_once(score: Callable[[list[AnyPair]], NDArray[np.float32]], pairs: Sequence[AnyPair]) -> NDArray[np.float32]:
    places: dict[AnyPair, int] = {}
    order = [places.setdefault(pair, len(places)) for pair in pairs]
    distinct = score(list(places)) if places else np.empty(0, dtype=np.float32)
    check_scores(map(float, distinct), "reranker")
    return np.asarray(distinct, dtype=np.float32)[order]


def _bare(groups: Sequence[Group]) -> list[Pair]:
    return [(group.query, passage) for group in groups for passage in group.passages]


def vector_pairs(
    encoder: Encoder, pairs: Sequence[Pair], cache: Path | None = None, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Score pairs [N] by an embedder's vectors, as it compares them: cosine or inner product.

    Each distinct text is encoded once.
    """
    return _similarities(encoder, pairs, cosine=encoder.cosine, cache=cache, progress=progress)


def vector_groups(
    encoder: Encoder, groups: Sequence[Group], cache: Path | None = None, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Score the pairs of all groups [N] by vectors, one group after another, as a training on them reads them."""
    if not any(group.prompted for group in groups):
        return vector_pairs(encoder, _bare(groups), cache, progress)
    pairs = []
    for group in groups:
        before_query, before_passage = encoder.prompts_of(group)
        query = written(before_query, group.query)
        pairs += [(query, written(before_passage, passage)) for passage in group.passages]
    return _similarities(PromptedTexts(encoder), pairs, cosine=encoder.cosine, cache=cache, progress=progress)


def _similarities(
    encoder: Embeds, pairs: Sequence[Pair], *, cosine: bool, cache: Path | None, progress: Progress | None
) -> NDArray[np.float32]:
    queries = list(dict.fromkeys(query for query, _ in pairs))
    passages = list(dict.fromkeys(passage for _, passage in pairs))
    left = cached_encode(encoder, queries, "query", cache, progress)
    right = cached_encode(encoder, passages, "passage", cache, progress)
    if cosine:
        left, right = _unit(left), _unit(right)
    query_place = {text: place for place, text in enumerate(queries)}
    passage_place = {text: place for place, text in enumerate(passages)}
    scores = [float(left[query_place[query]] @ right[passage_place[passage]]) for query, passage in pairs]
    return np.array(scores, dtype=np.float32)


def bm25_rows(row_set: RowSet) -> NDArray[np.float32]:
    """Score a row set's pairs by BM25 with the statistics of all its distinct passages."""
    pool = list(dict.fromkeys(row_set.passages.values()))
    place = {text: position for position, text in enumerate(pool)}
    retriever = Bm25Retriever(pool)
    found: list[float] = []
    for query, ids in zip(row_set.queries.values(), row_set.ids):
        scores = retriever.scores(query)
        found += [float(scores[place[row_set.passages[passage]]]) for passage in ids]
    return np.array(found, dtype=np.float32)


def without(judged: Judged, query_ids: Sequence[str]) -> Judged:
    """Return the set without some queries; the corpus stays."""
    gone = set(query_ids)
    kept = [(name, text) for name, text in zip(judged.query_ids, judged.queries) if name not in gone]
    return Judged(
        passage_ids=judged.passage_ids,
        passages=judged.passages,
        query_ids=[name for name, _ in kept],
        queries=[text for _, text in kept],
        qrels={name: judged.qrels[name] for name, _ in kept},
        name=judged.name,
    )


def drawn(judged: Judged, count: int | None, seed: int) -> Judged:
    """Return the set with ``count`` of its queries, drawn by chance: its first ones may be of one sort. None: all."""
    places = set(drawn_places(len(judged.query_ids), count, seed))
    return without(judged, [name for place, name in enumerate(judged.query_ids) if place not in places])


def drawn_places(total: int, count: int | None, seed: int) -> list[int]:
    """Return ``count`` places below ``total``, drawn by chance, ascending; all where there are no more."""
    if count is None or count >= total:
        return list(range(total))
    return sorted(stream(seed, "limit").sample(range(total), count))


def unseen(dev: Judged, judged: Judged) -> Judged:
    """Return the development queries that are not judged: neither their id nor, in normal form, their text."""
    texts = set(query_digests(judged.queries))
    known = [
        name
        for name, text in zip(dev.query_ids, dev.queries)
        if name in judged.qrels or not texts.isdisjoint(query_digests([text]))
    ]
    return without(dev, known)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    return np.asarray(vectors / np.maximum(norms, NORM_FLOOR)[:, None], dtype=np.float32)

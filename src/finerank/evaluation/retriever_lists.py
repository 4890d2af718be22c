"""The six retrievers of an ablation over one pool per query: plain or diverse; as found, or re-ordered by a reranker.

A retriever without a reranker returns k passages. One with a reranker keeps ``rerank_factor`` · k, scores them and
returns the k best of these; with a factor of 1 it returns the same passages in another order, as the original tool
does. Each distinct pair is scored once, whoever asks for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finerank.core.protocols import Pair, Scorer
from finerank.evaluation.ranking import score_pairs
from finerank.retrieval.diverse import Weights
from finerank.retrieval.spaces import Pool

PLAIN, DIVERSE = "standard", "diverse"
RERANKERS = {"zs": "zero-shot", "ft": "fine-tuned"}
TYPES = (PLAIN, "standard_zs", "standard_ft", DIVERSE, "diverse_zs", "diverse_ft")


@dataclass(frozen=True)
class Sizes:
    """How many passages a list holds and is chosen from.

    Attributes:
        k: passages of a list.
        pool_factor: a diverse list is picked from this many times its length.
        rerank_factor: a reranker sees this many times k.
    """

    k: int
    pool_factor: int = 3
    rerank_factor: int = 3

    @property
    def scored(self) -> int:
        """Passages that a reranker sees."""
        return self.k * self.rerank_factor

    @property
    def breadth(self) -> int:
        """Passages that a pool must hold."""
        return self.scored * self.pool_factor


def parts_of(kind: str) -> tuple[str, str | None]:
    """Return a type's base and its reranker.

    >>> parts_of("diverse_zs"), parts_of("standard")
    (('diverse', 'zs'), ('standard', None))
    """
    base, _, reranker = kind.partition("_")
    return base, reranker or None


def retriever_lists(
    pools: Sequence[Pool], queries: Sequence[str], passages: Sequence[str], kinds: Sequence[str], sizes: Sizes,
    given: Weights, scorers: Mapping[str, Scorer], scores: dict[str, dict[Pair, float]],
    seconds: dict[str, float] | None = None,
) -> list[dict[str, list[int]]]:  # fmt: skip
    """Return, per query, type -> places in its pool, best first.

    Args:
        passages: the corpus, by position.
        kinds: of ``TYPES``.
        scorers: ``zs`` and ``ft``, those that the kinds ask for.
        scores: reranker -> pair -> score, read and added to.
        seconds: gets what ``lists`` and each reranker took.
    """
    took = {} if seconds is None else seconds
    started = time.monotonic()
    before = [_candidates(pool, kinds, sizes, given) for pool in pools]
    took["lists"] = time.monotonic() - started
    found: list[dict[str, list[int]]] = [{} for _ in pools]
    for kind in kinds:
        base, name = parts_of(kind)
        if name is None:
            for places, lists in zip(before, found):
                lists[kind] = places[base, sizes.k]
    for name, scorer in scorers.items():
        started = time.monotonic()
        bases = [parts_of(kind)[0] for kind in kinds if parts_of(kind)[1] == name]
        texts = [
            {place: passages[int(pool.positions[place])] for base in bases for place in places[base, sizes.scored]}
            for pool, places in zip(pools, before)
        ]
        known = scores.setdefault(name, {})
        _score([(query, text) for query, by_place in zip(queries, texts) for text in by_place.values()], scorer, known)
        for query, places, by_place, lists in zip(queries, before, texts, found):
            for base in bases:
                order = sorted(places[base, sizes.scored], key=lambda place: -known[query, by_place[place]])
                lists[f"{base}_{name}"] = order[: sizes.k]
        took[name] = time.monotonic() - started
    return found


def _candidates(pool: Pool, kinds: Sequence[str], sizes: Sizes, given: Weights) -> dict[tuple[str, int], list[int]]:
    """Return (base, length) -> places, of those that the kinds ask for."""
    asked = {(base, sizes.scored if name else sizes.k) for base, name in map(parts_of, kinds)}
    return {
        (base, length): pool.plain(length) if base == PLAIN else pool.diverse(length, sizes.pool_factor, given)
        for base, length in sorted(asked)
    }


def _score(pairs: Sequence[Pair], scorer: Scorer, known: dict[Pair, float]) -> None:
    new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
    known.update(zip(new, score_pairs(scorer, new).tolist()))

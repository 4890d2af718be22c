"""A grid of pipelines on judged queries: first stage × diversity × reranker × depth, each computation made once.

A first stage searches once, as deep as the deepest pipeline needs; lists of equal making are shared; a reranker scores
each distinct pair of all its pipelines once. What a pipeline costs is added up from these parts: the search, the choice
of a diverse list, and its own pairs at the reranker's time per pair. Indexing and encoding the corpus are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from finerank.core.errors import UsageError
from finerank.core.protocols import Pair, Scorer
from finerank.core.runs import Run
from finerank.data.console import progress
from finerank.data.judged import Judged
from finerank.evaluation.plan import short_names
from finerank.evaluation.ranking import score_pairs
from finerank.retrieval.diverse import Weights, weights
from finerank.retrieval.spaces import Pool, Space

NONE = "none"
Lists = list[list[tuple[int, float]]]
"""Per query, positions and scores, best first."""


@dataclass(frozen=True)
class Pipeline:
    """One cell of the grid; ``diverse`` and ``reranker`` None are left out of it."""

    first: str
    diverse: Weights | None
    reranker: str | None
    depth: int

    @property
    def before(self) -> Pipeline:
        """The list that the reranker sees."""
        return Pipeline(self.first, self.diverse, None, self.depth)


@dataclass
class Measured:
    """What the grid gave.

    Attributes:
        runs, pairs, seconds: arm -> its run, the pairs that it scores, its seconds for all queries.
        pipelines: arm -> how it is made.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    pipelines: dict[str, Pipeline] = field(default_factory=dict)


def grid(
    firsts: Sequence[str], diversities: Sequence[Weights | None], rerankers: Sequence[str | None], depths: Sequence[int]
) -> list[Pipeline]:
    """Return the distinct pipelines; a plain list without a reranker comes once, at the largest depth."""
    found = [
        Pipeline(first, diverse, reranker, depth if diverse or reranker else max(depths))
        for first in firsts
        for diverse in diversities
        for reranker in rerankers
        for depth in sorted(depths)
    ]
    return list(dict.fromkeys(found))


def parse_diverse(words: Sequence[str], usual: Weights) -> list[Weights | None]:
    """Read ``--diverse``: ``none`` or three λ; without any, none and the usual ones.

    >>> parse_diverse(["none", "8,0,2"], weights(1, 0, 0))
    [None, Weights(relevance=0.8, source=0.0, chosen=0.2)]
    """
    found: list[Weights | None] = []
    for word in words:
        if word == NONE:
            found.append(None)
            continue
        try:
            first, second, third = map(float, word.split(","))
        except ValueError:
            raise UsageError(
                f'--diverse takes none or three numbers, got "{word}"', hint="--diverse none 0.8,0,0.2"
            ) from None
        found.append(weights(first, second, third))
    return list(dict.fromkeys(found or [None, usual]))


def names_of(pipelines: Sequence[Pipeline]) -> dict[str, Pipeline]:
    """Return arm -> pipeline, in order; an arm's name says how it is made."""
    paths = list(dict.fromkeys(path for item in pipelines for path in (item.first, item.reranker) if path is not None))
    short = dict(zip(paths, short_names(paths)))
    return {_name(item, short): item for item in pipelines}


def measure(
    pipelines: Sequence[Pipeline], judged: Judged, spaces: Mapping[str, Space], scorers: Mapping[str, Scorer],
    pool_factor: int,
) -> Measured:  # fmt: skip
    """Run every pipeline on every query.

    Args:
        spaces: first stage -> where it searches. ``scorers``: reranker -> its model.
        pool_factor: a diverse list is picked from this many times its length.
    """
    found = Measured(pipelines=names_of(pipelines))
    lists: dict[Pipeline, Lists] = {}
    seconds: dict[Pipeline, float] = {}
    for first, space in spaces.items():
        asked = list(dict.fromkeys(item.before for item in pipelines if item.first == first))
        _first_stage(asked, judged, space, pool_factor, lists, seconds)
    for reranker, scorer in scorers.items():
        asked = [item for item in pipelines if item.reranker == reranker]
        _rerank(asked, judged, reranker, scorer, lists, seconds)
    for name, item in found.pipelines.items():
        found.runs[name] = {
            query: {judged.passage_ids[position]: score for position, score in ranked}
            for query, ranked in zip(judged.query_ids, lists[item])
        }
        found.pairs[name] = sum(map(len, lists[item])) if item.reranker is not None else 0
        found.seconds[name] = seconds[item]
    return found


def _first_stage(
    asked: Sequence[Pipeline], judged: Judged, space: Space, pool_factor: int, lists: dict[Pipeline, Lists],
    seconds: dict[Pipeline, float],
) -> None:  # fmt: skip
    """Make the plain and the diverse lists of one first stage."""
    breadth = max(item.depth * (pool_factor if item.diverse else 1) for item in asked)
    lists.update({item: [] for item in asked})
    picking = dict.fromkeys(asked, 0.0)
    searching, nowhere = 0.0, [None] * len(judged.queries)
    source = iter(space.search(judged.queries, nowhere, breadth))
    with progress(len(judged.queries), f"{asked[0].first}: search", "queries") as update:
        for query in judged.queries:
            started = time.monotonic()
            positions, relevance = next(source)
            searching += time.monotonic() - started
            pool = None
            for item in asked:
                if item.diverse is None:
                    places = range(min(item.depth, len(positions)))
                    lists[item].append([(int(positions[place]), float(relevance[place])) for place in places])
                    continue
                started = time.monotonic()
                if pool is None:
                    pool = Pool(positions, relevance, *space.compare(query, positions, None))
                chosen = pool.diverse(item.depth, pool_factor, item.diverse)
                picking[item] += time.monotonic() - started
                lists[item].append([(int(positions[place]), float(-rank)) for rank, place in enumerate(chosen)])
            update(1)
    seconds.update({item: searching + picking[item] for item in asked})


def _rerank(
    asked: Sequence[Pipeline], judged: Judged, name: str, scorer: Scorer, lists: dict[Pipeline, Lists],
    seconds: dict[Pipeline, float],
) -> None:  # fmt: skip
    """Score the distinct pairs of one reranker's pipelines, and order their lists by the scores."""
    pairs: dict[Pair, float] = {}
    for item in asked:
        for query, ranked in zip(judged.queries, lists[item.before]):
            pairs.update(dict.fromkeys(((query, judged.passages[position]) for position, _ in ranked), 0.0))
    started = time.monotonic()
    with progress(len(pairs), f"{short_names([name])[0]}: score", "pairs") as update:
        scores = score_pairs(scorer, list(pairs), update)
    each = (time.monotonic() - started) / max(1, len(pairs))
    pairs = dict(zip(pairs, map(float, scores)))
    for item in asked:
        lists[item] = [
            sorted(
                ((position, pairs[query, judged.passages[position]]) for position, _ in ranked),
                key=lambda found: -found[1],
            )
            for query, ranked in zip(judged.queries, lists[item.before])
        ]
        seconds[item] = seconds[item.before] + each * sum(map(len, lists[item]))


def _name(item: Pipeline, short: Mapping[str, str]) -> str:
    given = "" if item.diverse is None else f" diverse {'/'.join(f'{value:.3g}' for value in item.diverse)}"
    found = short[item.first] + given
    if item.reranker is not None:
        found = f"{short[item.reranker]} over {found}"
    return found if not given and item.reranker is None else f"{found} @{item.depth}"

"""Which queries a page lists, and what stands in their result lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from finerank.core.runs import Qrels, Run, ranked
from finerank.core.seeding import stream

MOST_LISTED = 1_000
"""Queries that a page lists by value; of them, ``sample_queries`` have their result lists, too."""


@dataclass(frozen=True)
class Shown:
    """One passage of a result list; ``moved`` is how many ranks it rose against the baseline, None if new there."""

    passage_id: str
    rank: int
    score: float
    grade: int
    moved: int | None
    text: str


@dataclass(frozen=True)
class Sample:
    """One query with every arm's value of the headline metric, and every arm's list if it has any."""

    query_id: str
    text: str
    relevant: int
    values: dict[str, float]
    lists: dict[str, list[Shown]] = field(default_factory=dict)


@dataclass(frozen=True)
class Texts:
    """What samples are made of: arms' runs and values of the headline metric, labels, texts by id."""

    arms: Mapping[str, Run]
    values: Mapping[str, Mapping[str, float]]
    qrels: Qrels
    queries: Mapping[str, str]
    passages: Mapping[str, str]

    def sample(self, query: str, baseline: str, depth: int) -> Sample:
        """Return a query with its result lists."""
        orders = {name: ranked(run.get(query, {})) for name, run in self.arms.items()}
        before = {candidate.passage_id: rank for rank, candidate in enumerate(orders[baseline], start=1)}
        grades = self.qrels[query]
        lists = {
            name: [
                Shown(
                    passage_id, rank, score, grades.get(passage_id, 0),
                    before[passage_id] - rank if passage_id in before else None, self.passages.get(passage_id, ""),
                )
                for rank, (passage_id, score) in enumerate(order[:depth], start=1)
            ]
            for name, order in orders.items()
        }  # fmt: skip
        bare = self.listed(query)
        return Sample(query, bare.text, bare.relevant, bare.values, lists)

    def listed(self, query: str) -> Sample:
        """Return a query without lists."""
        relevant = sum(grade > 0 for grade in self.qrels[query].values())
        values = {name: found[query] for name, found in self.values.items()}
        return Sample(query, self.queries.get(query, query), relevant, values)


def choose_samples(values: Mapping[str, float], base: Mapping[str, float], count: int, seed: int) -> list[str]:
    """Pick queries to show: most improved (40 %), most worsened (30 %), the rest by chance; most improved first."""
    order = sorted(values, key=lambda query: (base[query] - values[query], query))
    up = [query for query in order if values[query] > base[query]][: round(count * 0.4)]
    down = [query for query in reversed(order) if values[query] < base[query]][: round(count * 0.3)]
    taken = {*up, *down}
    rest = [query for query in order if query not in taken]
    free = max(0, min(count - len(up) - len(down), len(rest)))
    chosen = {*up, *down, *stream(seed, "samples").sample(rest, free)}
    return [query for query in order if query in chosen][:count]


def pick(texts: Texts, focus: str, baseline: str, count: int, depth: int, seed: int) -> list[Sample]:
    """Return ``count`` queries with their lists, then others without, up to ``MOST_LISTED`` in all; none for 0."""
    if not count:
        return []
    values, base = texts.values[focus], texts.values[baseline]
    chosen = choose_samples(values, base, count, seed)
    known = set(chosen)
    more = [query for query in choose_samples(values, base, MOST_LISTED, seed) if query not in known]
    room = max(0, MOST_LISTED - len(chosen))
    return [texts.sample(query, baseline, depth) for query in chosen] + [texts.listed(query) for query in more[:room]]

"""The trials of an ablation: one query, every retriever's list, the verdicts on what was tried; plain JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from finerank.retrieval.spaces import Pool

POSITIVE = "positive"
Asked = tuple[int, int]
"""Number of a query, number of a document."""
DECIMALS = 6


@dataclass(frozen=True)
class Listed:
    """One retriever's list for one query.

    Attributes:
        documents: ids, best first.
        verdicts: of the documents tried, from the head to the first positive.
        likeness, nearness: mean cosine of two of them; to the source. None where there is none.
        entities: names in them that are not in the source.
    """

    documents: list[str]
    verdicts: list[str]
    likeness: float | None
    nearness: float | None
    entities: list[str]

    @property
    def rank(self) -> int | None:
        """The rank of the first success, from 1."""
        return len(self.verdicts) if self.verdicts and self.verdicts[-1] == POSITIVE else None


@dataclass(frozen=True)
class Trial:
    """One query and all its lists."""

    source: str
    query: str
    entity: str
    lists: dict[str, Listed]

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Trial:
        """Read what ``to_mapping`` gave."""
        lists = {kind: Listed(**found) for kind, found in value["lists"].items()}
        return cls(value["source"], value["query"], value["entity"], lists)


def verdicts_of(
    lists: Sequence[Mapping[str, Sequence[int]]], judge: Callable[[Sequence[Asked]], Sequence[str]]
) -> list[dict[int, str]]:
    """Try every list from its head to its first success; return, per query, document -> verdict.

    Goes rank by rank, so that many verdicts can be asked for at once; no document is asked about twice for a query,
    and none that comes behind a success in all lists.

    Args:
        lists: per query, retriever -> document numbers, best first.
        judge: gives the verdicts on pairs, in order.
    """
    known: list[dict[int, str]] = [{} for _ in lists]
    for rank in range(max((len(found) for query in lists for found in query.values()), default=0)):
        asked = [
            (number, found[rank])
            for number, query in enumerate(lists)
            for found in query.values()
            if rank < len(found) and not any(known[number][document] == POSITIVE for document in found[:rank])
        ]
        new = [pair for pair in dict.fromkeys(asked) if pair[1] not in known[pair[0]]]
        for (number, document), verdict in zip(new, judge(new) if new else []):
            known[number][document] = verdict
    return known


@dataclass(frozen=True)
class Naming:
    """What documents are called and what they speak of, by number."""

    id_of: Callable[[int], str]
    entities_of: Callable[[int], set[str]]


def trial_of(
    pool: Pool, lists: Mapping[str, Sequence[int]], verdicts: Mapping[int, str], naming: Naming, *, source: int,
    query: str, entity: str,
) -> Trial:  # fmt: skip
    """Return one query's trial.

    Args:
        lists: retriever -> places in the pool, best first.
        verdicts: document number -> verdict (``verdicts_of``).
    """
    known = naming.entities_of(source)
    found = {}
    for kind, places in lists.items():
        numbers = [int(pool.positions[place]) for place in places]
        tried: list[str] = []
        for number in numbers:
            tried.append(verdicts[number])
            if tried[-1] == POSITIVE:
                break
        entities: set[str] = set().union(*map(naming.entities_of, numbers)) - known
        found[kind] = Listed(
            [naming.id_of(number) for number in numbers],
            tried,
            _rounded(pool.likeness(places)),
            _rounded(pool.nearness(places)),
            sorted(entities),
        )
    return Trial(naming.id_of(source), query, entity, found)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DECIMALS)
